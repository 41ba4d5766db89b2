// Package hosts reads which hosts serve a registry's images: the
// certs.d/<registry>/hosts.toml files that node operators keep for containerd.
package hosts

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/reference"
)

// fileName is the file in a registry's directory.
const fileName = "hosts.toml"

// defaultDir holds what is meant for registries without a directory.
const defaultDir = "_default"

// Host is one host that may serve a registry's images.
type Host struct {
	Scheme string // "https" or "http"
	Addr   string // host or host:port
	Path   string // of the API, "/v2" unless overridden
	// FallbackHTTP allows plain HTTP where the host does not speak TLS. Only
	// loopback hosts without an explicit scheme have it.
	FallbackHTTP bool

	Resolve bool // may be asked what a tag means
	Pull    bool // may be asked for content
	// Push: may be given content. The registry itself may unless its capabilities leave
	// it out, a mirror only if they name it.
	Push bool

	SkipVerify  bool
	CAs         []string      // files with PEM certificates, added to the system's
	Clients     []KeyPair     // client certificates
	Header      http.Header   // sent to this host only
	DialTimeout time.Duration // 0: the default

	// Registry is set on the host that is the registry itself and not a mirror.
	// Only there the credentials of a pull go; mirrors have their own.
	Registry bool
}

// KeyPair names the files of a client certificate. Key is empty when Cert holds
// both.
type KeyPair struct{ Cert, Key string }

// String is the host as an operator writes it.
func (h Host) String() string {
	p := strings.TrimSuffix(h.Path, "/v2")
	return h.Scheme + "://" + h.Addr + p
}

// Load returns the hosts of a registry in the order in which they are to be
// tried. The directories are searched in order; the first that has something for
// the registry counts. Without any, the registry itself is the only host.
// warnings are things in the file that have no effect.
func Load(dirs []string, registry string) (list []Host, warnings []string, err error) {
	for _, dir := range dirs {
		for _, name := range dirNames(registry) {
			path := filepath.Join(dir, name)
			list, warnings, err := loadDir(path, registry)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, nil, fmt.Errorf("registry hosts of %s: %w", registry, err)
			}
			return list, warnings, nil
		}
	}
	return []Host{upstream(registry)}, nil, nil
}

// dirNames are the directories that may be meant for a registry: host_port_ is
// for file systems that know no colons.
func dirNames(registry string) []string {
	names := []string{registry, defaultDir}
	if host, port, ok := strings.Cut(registry, ":"); ok && !strings.HasPrefix(registry, "[") {
		names = append([]string{host + "_" + port + "_"}, names...)
	}
	return names
}

func loadDir(dir, registry string) ([]Host, []string, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, nil, err
	}
	if !st.IsDir() {
		return nil, nil, fmt.Errorf("%s is not a directory", dir)
	}
	content, err := os.ReadFile(filepath.Join(dir, fileName))
	if errors.Is(err, os.ErrNotExist) {
		host, err := dockerDir(dir, registry)
		return []Host{host}, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	list, warnings, err := parse(content, dir, registry)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(dir, fileName), err)
	}
	return list, warnings, nil
}

// dockerDir is the layout that Docker has: *.crt are CAs, *.cert with *.key
// client certificates.
func dockerDir(dir, registry string) (Host, error) {
	h := upstream(registry)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return h, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			h.CAs = append(h.CAs, path)
		case ".cert":
			h.Clients = append(h.Clients, KeyPair{Cert: path, Key: strings.TrimSuffix(path, ".cert") + ".key"})
		}
	}
	return h, nil
}

// upstream is the registry itself, as it is reached without configuration.
func upstream(registry string) Host {
	h := Host{Scheme: "https", Addr: registry, Path: "/v2", Resolve: true, Pull: true, Push: true, Registry: true}
	if registry == reference.DefaultDomain {
		h.Addr = "registry-1.docker.io"
	}
	if IsLoopback(registry) {
		loopbackDefaults(&h)
	}
	return h
}

// loopbackDefaults are containerd's: what is said to this machine need not be
// encrypted, nor the other end verified.
func loopbackDefaults(h *Host) {
	switch _, port, _ := net.SplitHostPort(h.Addr); port {
	case "", "443":
		h.SkipVerify = true
	case "80":
		h.Scheme = "http"
	default:
		h.SkipVerify, h.FallbackHTTP = true, true
	}
}

// IsLoopback tells whether addr, a host or host:port, is this machine.
func IsLoopback(addr string) bool {
	host := addr
	if h, _, err := net.SplitHostPort(addr); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// parseURL reads the URL of a host; without a scheme it is https.
func parseURL(s string, overridePath bool) (Host, error) {
	h := Host{Resolve: true, Pull: true}
	explicit := strings.Contains(s, "://")
	if !explicit {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return h, err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return h, fmt.Errorf("URL %q: scheme is neither http nor https", s)
	}
	if u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return h, fmt.Errorf("URL %q: want scheme, host and path only", s)
	}
	h.Scheme, h.Addr = u.Scheme, u.Host
	if !explicit && IsLoopback(u.Host) {
		loopbackDefaults(&h)
	}
	h.Path = apiPath(u.Path, overridePath)
	return h, nil
}

func apiPath(p string, override bool) string {
	p = path.Clean("/" + p)
	if p == "/" {
		p = ""
	}
	if override || strings.HasSuffix(p, "/v2") {
		return p
	}
	return p + "/v2"
}
