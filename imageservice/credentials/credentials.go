// Package credentials finds a node's own credentials for a registry in a file of
// the form of Docker's config.json, and in the credential helpers that it names.
//
// Nothing in here logs a credential or puts one into an error, and what a helper
// prints is not repeated: it may be one.
package credentials

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/berth-cri/berth/imageservice/reference"
)

// maxFileSize bounds the file.
const maxFileSize = 1 << 20

// file is what is known of config.json; other keys are the command line's.
type file struct {
	Auths       map[string]entry  `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

// entry is what the file says of one registry.
type entry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Find returns the credentials for ref's registry in the file at path, or nil when
// there are none. The file is read each time. Its entries name a registry, in any
// form that Docker writes, or a registry with the beginning of a repository, as
// Podman does: the longest that fits counts. Helpers are asked in the order of
// Docker: credHelpers, the entry itself, credsStore.
func Find(ctx context.Context, path string, ref reference.Reference) (*authn.AuthConfig, error) {
	ref.Domain = canonical(ref.Domain)
	f, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("read credentials of %s: %w", path, err)
	}
	if key := longest(f.CredHelpers, ref); key != "" {
		return ask(ctx, f.CredHelpers[key], serverName(ref.Domain))
	}
	if key := longest(f.Auths, ref); key != "" {
		c, err := f.Auths[key].config()
		if err != nil {
			return nil, fmt.Errorf("read credentials of %s: entry %q: %w", path, key, err)
		}
		if c != nil {
			return c, nil
		}
	}
	if f.CredsStore != "" {
		return ask(ctx, f.CredsStore, serverName(ref.Domain))
	}
	return nil, nil
}

func read(path string) (file, error) {
	var f file
	in, err := os.Open(path)
	if err != nil {
		return f, err
	}
	defer in.Close()
	content, err := io.ReadAll(io.LimitReader(in, maxFileSize+1))
	if err != nil {
		return f, err
	}
	if len(content) > maxFileSize {
		return f, fmt.Errorf("file is longer than %d bytes", maxFileSize)
	}
	var syntax *json.SyntaxError
	switch err := json.Unmarshal(content, &f); {
	case errors.As(err, &syntax):
		return f, fmt.Errorf("byte %d: not JSON", syntax.Offset)
	case err != nil:
		return f, errors.New("a value has the wrong type")
	}
	return f, nil
}

// longest returns the key that fits ref best, or nothing.
func longest[V any](m map[string]V, ref reference.Reference) string {
	best, length := "", -1
	for key := range m {
		domain, repository := split(key)
		if domain != ref.Domain || len(repository) <= length {
			continue
		}
		if repository == "" || repository == ref.Path || strings.HasPrefix(ref.Path, repository+"/") {
			best, length = key, len(repository)
		}
	}
	return best
}

// split takes a key apart. What Docker writes for its own registry is a URL with
// the path of an API.
func split(key string) (domain, repository string) {
	s := key
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil {
			return "", ""
		}
		s = u.Host + u.Path
	}
	domain, repository, _ = strings.Cut(s, "/")
	repository = strings.Trim(repository, "/")
	if repository == "v1" || repository == "v2" {
		repository = ""
	}
	return canonical(domain), repository
}

// canonical gives Docker's registry its one name.
func canonical(domain string) string {
	switch domain = strings.ToLower(domain); domain {
	case "index.docker.io", "registry-1.docker.io":
		return reference.DefaultDomain
	}
	return domain
}

// serverName is what helpers know a registry by.
func serverName(domain string) string {
	if domain == reference.DefaultDomain {
		return "https://index.docker.io/v1/"
	}
	return domain
}

// config returns nil for an entry that only tells that a helper knows more.
func (e entry) config() (*authn.AuthConfig, error) {
	c := authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" && c.Username == "" && c.Password == "" {
		decoded, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			return nil, errors.New("auth is not base64")
		}
		user, password, ok := strings.Cut(string(decoded), ":")
		if !ok {
			return nil, errors.New("auth has no colon between user and password")
		}
		c.Username, c.Password = user, strings.TrimRight(password, "\x00")
	}
	if c == (authn.AuthConfig{}) {
		return nil, nil
	}
	return &c, nil
}
