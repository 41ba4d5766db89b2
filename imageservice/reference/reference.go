// Package reference parses the names of images the way Docker does: "busybox"
// is docker.io/library/busybox:latest.
package reference

import (
	_ "crypto/sha256" // the algorithms that digests may have
	_ "crypto/sha512"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

const (
	// DefaultDomain is the registry of names that do not name one.
	DefaultDomain = "docker.io"
	// DefaultTag is the tag of names that have neither tag nor digest.
	DefaultTag = "latest"

	legacyDomain     = "index.docker.io"
	officialPrefix   = "library/"
	maxRepositoryLen = 255
)

var (
	component = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
	pathRE    = regexp.MustCompile(`^` + component + `(?:/` + component + `)*$`)
	tagRE     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	labelRE   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$`)
	portRE    = regexp.MustCompile(`^[0-9]{1,5}$`)
	hexRE     = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

// Reference is a normalised name: a repository with a tag or a digest, never
// both. A name that was given with both keeps the digest, which says more.
type Reference struct {
	Domain string // "docker.io", "localhost:5000"
	Path   string // "library/busybox"
	Tag    string
	Digest digest.Digest
}

// Parse normalises s. The error is an errdefs.ErrInvalidArgument that names the
// part that is wrong.
func Parse(s string) (Reference, error) {
	r, err := parse(s)
	if err != nil {
		return Reference{}, fmt.Errorf("image name %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

func parse(s string) (Reference, error) {
	var r Reference
	if s == "" {
		return r, fmt.Errorf("empty name")
	}
	if hexRE.MatchString(s) || digest.Digest(s).Validate() == nil {
		return r, fmt.Errorf("this is an image ID, not a name")
	}
	rest, dig, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		d, err := ParseDigest(dig)
		if err != nil {
			return r, err
		}
		r.Digest = d
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		r.Tag, rest = rest[i+1:], rest[:i]
		if !tagRE.MatchString(r.Tag) {
			return r, fmt.Errorf("tag %q has forbidden characters or is too long", r.Tag)
		}
	}
	r.Domain, r.Path = splitDomain(rest)
	if err := checkDomain(r.Domain); err != nil {
		return r, err
	}
	if !pathRE.MatchString(r.Path) {
		return r, fmt.Errorf("repository %q is not lower case words separated by slashes", r.Path)
	}
	if len(r.Repository()) > maxRepositoryLen {
		return r, fmt.Errorf("repository is longer than %d characters", maxRepositoryLen)
	}
	if r.Digest != "" {
		r.Tag = ""
	} else if r.Tag == "" {
		r.Tag = DefaultTag
	}
	return r, nil
}

// splitDomain tells a registry from the first word of a path: a registry has a
// dot, a port or capitals, or is called localhost.
func splitDomain(s string) (domain, path string) {
	first, rest, ok := strings.Cut(s, "/")
	isDomain := strings.ContainsAny(first, ".:[") || first == "localhost" || strings.ToLower(first) != first
	if !ok || !isDomain {
		domain, path = DefaultDomain, s
	} else {
		domain, path = first, rest
	}
	if domain == legacyDomain {
		domain = DefaultDomain
	}
	if domain == DefaultDomain && !strings.Contains(path, "/") {
		path = officialPrefix + path
	}
	return domain, path
}

func checkDomain(domain string) error {
	host := domain
	if strings.HasPrefix(domain, "[") {
		end := strings.IndexByte(domain, ']')
		if end < 0 {
			return fmt.Errorf("registry %q has no closing bracket", domain)
		}
		addr, err := netip.ParseAddr(domain[1:end])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return fmt.Errorf("registry %q is no IPv6 address", domain)
		}
		if rest := domain[end+1:]; rest != "" && (rest[0] != ':' || !portRE.MatchString(rest[1:])) {
			return fmt.Errorf("registry %q has no valid port", domain)
		}
		return nil
	}
	if h, port, ok := strings.Cut(domain, ":"); ok {
		if !portRE.MatchString(port) {
			return fmt.Errorf("registry %q has no valid port", domain)
		}
		host = h
	}
	for _, label := range strings.Split(host, ".") {
		if !labelRE.MatchString(label) {
			return fmt.Errorf("registry %q is no host name", domain)
		}
	}
	return nil
}

// Repository returns the name without tag and digest.
func (r Reference) Repository() string { return r.Domain + "/" + r.Path }

// String returns the whole normalised name.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Repository() + "@" + r.Digest.String()
	}
	return r.Repository() + ":" + r.Tag
}

// Identifier is what follows /manifests/ in a registry's API: the tag or the
// digest.
func (r Reference) Identifier() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// WithDigest returns the repository at d.
func (r Reference) WithDigest(d digest.Digest) Reference {
	return Reference{Domain: r.Domain, Path: r.Path, Digest: d}
}

// ParseDigest checks s: only algorithms that this program can verify are
// accepted, so that no unchecked string becomes part of a path or a URL.
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", s, err)
	}
	switch d.Algorithm() {
	case digest.SHA256, digest.SHA512:
		return d, nil
	}
	return "", fmt.Errorf("digest %q: unsupported algorithm", s)
}
