package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/berth-cri/berth/imageservice/hosts"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	dialTimeout         = 10 * time.Second
	tlsHandshakeTimeout = 10 * time.Second
	readBufferSize      = 128 << 10
	maxRedirects        = 10
	maxCertificateFile  = 1 << 20
)

// endpoint speaks to one host about one repository.
type endpoint struct {
	host  hosts.Host
	ref   reference.Reference
	own   transports // to the host
	other transports // to where it sends us
	auth  authn.Authenticator
	agent string
	// mirrorAuth is set for mirrors in the place of auth, and may be nil.
	mirrorAuth func(context.Context, reference.Reference) (*authn.AuthConfig, error)
	// scopes are what a token is asked for.
	scopes []string

	mu     sync.Mutex // guards the rest
	scheme string
	authed http.RoundTripper // nil until the host asked for credentials
}

func newEndpoint(h hosts.Host, ref reference.Reference, o Options) (*endpoint, error) {
	pool, err := certPool(h.CAs)
	if err != nil {
		return nil, err
	}
	certs, err := keyPairs(h.Clients)
	if err != nil {
		return nil, err
	}
	e := &endpoint{host: h, ref: ref, auth: authn.Anonymous, agent: o.UserAgent, scheme: h.Scheme}
	e.scopes = []string{"repository:" + ref.Path + ":pull"}
	if o.Push {
		e.scopes[0] += ",push"
		for _, from := range o.MountFrom {
			e.scopes = append(e.scopes, "repository:"+from+":pull")
		}
	}
	if h.Registry && o.Auth != nil {
		e.auth = authn.FromConfig(*normalizeAuth(o.Auth))
	}
	if !h.Registry {
		e.mirrorAuth = o.MirrorAuth
	}
	e.own = newTransports(h, &tls.Config{RootCAs: pool, Certificates: certs, InsecureSkipVerify: h.SkipVerify}) //nolint:gosec // the operator asked for it
	e.other = newTransports(h, &tls.Config{RootCAs: pool})
	return e, nil
}

// transports are two ways to the same hosts: one that may put requests on one
// connection, and one where each has its own.
type transports struct{ shared, single *http.Transport }

func newTransports(h hosts.Host, config *tls.Config) transports {
	t := transports{shared: newTransport(h, config), single: newTransport(h, config.Clone())}
	t.single.ForceAttemptHTTP2 = false
	return t
}

// of chooses by ownConnection.
func (t transports) of(ctx context.Context) *http.Transport {
	if ctx.Value(ownConnection{}) != nil {
		return t.single
	}
	return t.shared
}

func (t transports) close() {
	t.shared.CloseIdleConnections()
	t.single.CloseIdleConnections()
}

// elsewhere is the transport to other hosts.
func (e *endpoint) elsewhere(ctx context.Context) http.RoundTripper { return e.other.of(ctx) }

// normalizeAuth splits what is user and password in one string.
func normalizeAuth(a *authn.AuthConfig) *authn.AuthConfig {
	c := *a
	if c.Username == "" && c.Password == "" && c.Auth != "" {
		if dec, err := base64.StdEncoding.DecodeString(c.Auth); err == nil {
			if user, pass, ok := strings.Cut(string(dec), ":"); ok {
				c.Username, c.Password = user, strings.TrimRight(pass, "\x00")
			}
		}
	}
	return &c
}

func newTransport(h hosts.Host, config *tls.Config) *http.Transport {
	timeout := dialTimeout
	if h.DialTimeout > 0 {
		timeout = h.DialTimeout
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: tlsHandshakeTimeout,
		ForceAttemptHTTP2:   true,
		// The bytes of a blob are what its digest is made of.
		DisableCompression: true,
		ReadBufferSize:     readBufferSize,
		MaxIdleConns:       16,
		// Layers, and parts of them, are fetched side by side.
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     30 * time.Second,
	}
}

func certPool(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil // the system's
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, f := range files {
		pem, err := readSmall(f)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA: %s holds no certificate", f)
		}
	}
	return pool, nil
}

func keyPairs(pairs []hosts.KeyPair) ([]tls.Certificate, error) {
	var certs []tls.Certificate
	for _, p := range pairs {
		if p.Key == "" {
			p.Key = p.Cert
		}
		cert, err := readSmall(p.Cert)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		key, err := readSmall(p.Key)
		if err != nil {
			return nil, fmt.Errorf("read client key: %w", err)
		}
		c, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", p.Cert, err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCertificateFile))
}

// String is the host as it was spoken to last.
func (e *endpoint) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.host
	h.Scheme = e.scheme
	return h.String()
}

func (e *endpoint) close() {
	e.own.close()
	e.other.close()
}

// get asks for a path of the repository. The answer is a success, 200 or 206.
func (e *endpoint) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	return e.ask(ctx, http.MethodGet, path, header)
}

// head is get without the content.
func (e *endpoint) head(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	return e.ask(ctx, http.MethodHead, path, header)
}

func (e *endpoint) ask(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	return e.expect(ctx, message{method: method, target: path, header: header}, http.StatusOK, http.StatusPartialContent)
}

// message is a request that can be sent again.
type message struct {
	method string
	// target is a path of the repository, or a URL that the host has named.
	target string
	header http.Header
	// open begins to read the content of size bytes; nil for none.
	open func() (io.ReadCloser, error)
	size int64
}

// expect sends m, with credentials if the host asks for them. The answer has one of the
// statuses in want.
func (e *endpoint) expect(ctx context.Context, m message, want ...int) (*http.Response, error) {
	resp, err := e.send(ctx, m)
	if isPlainHTTP(err) && e.fallBack() {
		resp, err = e.send(ctx, m)
	}
	if err != nil {
		return nil, requestError(err)
	}
	// What a host that we were sent to asks for is none of the registry's business.
	if resp.StatusCode == http.StatusUnauthorized && resp.Request.URL.Host == e.host.Addr {
		retry, err := e.logIn(ctx, resp)
		if err != nil {
			resp.Body.Close()
			return nil, requestError(err)
		}
		if retry {
			resp.Body.Close()
			if resp, err = e.send(ctx, m); err != nil {
				return nil, requestError(err)
			}
		}
	}
	if err := checkStatus(resp, want...); err != nil {
		return nil, err
	}
	return resp, nil
}

// isPlainHTTP tells that the host answered a TLS hello without TLS.
func isPlainHTTP(err error) bool {
	var rh tls.RecordHeaderError
	return err != nil && (errors.As(err, &rh) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"))
}

func (e *endpoint) fallBack() bool {
	if !e.host.FallbackHTTP {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.scheme = "http"
	return true
}

func (e *endpoint) send(ctx context.Context, m message) (*http.Response, error) {
	e.mu.Lock()
	scheme, rt := e.scheme, e.authed
	e.mu.Unlock()
	if rt == nil {
		rt = e
	}
	url := m.target
	if strings.HasPrefix(url, "/") {
		url = scheme + "://" + e.host.Addr + e.host.Path + "/" + e.ref.Path + e.forMirror(m.target)
	}
	req, err := http.NewRequestWithContext(ctx, m.method, url, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range m.header {
		req.Header[k] = v
	}
	if m.open != nil && m.size > 0 {
		if req.Body, err = m.open(); err != nil {
			return nil, err
		}
		req.GetBody, req.ContentLength = m.open, m.size
	}
	client := http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return client.Do(req)
}

// forMirror tells mirrors of several registries, in the path, which one is meant.
func (e *endpoint) forMirror(path string) string {
	if e.host.Registry {
		return path
	}
	if strings.Contains(path, "?") {
		return path + "&ns=" + e.ref.Domain
	}
	return path + "?ns=" + e.ref.Domain
}

// RoundTrip sends a request as the host's configuration says, and without any of
// it where the host only sent us: neither its headers nor its certificates nor
// its exemption from verification are meant for others.
func (e *endpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if e.agent != "" {
		req.Header.Set("User-Agent", e.agent)
	}
	if req.URL.Host != e.host.Addr {
		if sameHostname(req.URL.Host, e.host.Addr) && e.host.SkipVerify {
			return e.own.of(req.Context()).RoundTrip(req)
		}
		return e.elsewhere(req.Context()).RoundTrip(req)
	}
	for k, v := range e.host.Header {
		req.Header[k] = v
	}
	return e.own.of(req.Context()).RoundTrip(req)
}

func sameHostname(a, b string) bool { return hostname(a) == hostname(b) }

func hostname(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

// checkRedirect keeps a registry from making us give up encryption or ask what
// only this machine can reach.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	first := via[0].URL
	if first.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s refused", req.URL.Scheme)
	}
	ip, err := netip.ParseAddr(req.URL.Hostname())
	local := err == nil && (ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()) || req.URL.Hostname() == "localhost"
	if local && !hosts.IsLoopback(first.Host) && !sameHostname(req.URL.Host, first.Host) {
		return fmt.Errorf("redirect from %s to %s refused", first.Host, req.URL.Host)
	}
	return nil
}

// logIn answers the host's challenge. It tells whether to ask again: not if the
// answer to it was given already. What a host asks that we were only sent to is not
// answered: it could name any server for tokens.
func (e *endpoint) logIn(ctx context.Context, challenge *http.Response) (bool, error) {
	if challenge.Request.URL.Host != e.host.Addr {
		return false, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.authed != nil && challenge.Request.Header.Get("Authorization") != "" {
		return false, nil
	}
	if e.authed != nil {
		return true, nil // another request was faster
	}
	var opts []name.Option
	if e.scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(e.host.Addr, opts...)
	if err != nil {
		return false, err
	}
	auth, err := e.authenticator(ctx)
	if err != nil {
		return false, err
	}
	replay := &challengeReplay{scheme: e.scheme, addr: e.host.Addr, header: challenge.Header, next: e}
	rt, err := transport.NewWithContext(ctx, reg, auth, replay, e.scopes)
	if err != nil {
		return false, err
	}
	e.authed = rt
	return true, nil
}

// authenticator has the credentials that are meant for this host.
func (e *endpoint) authenticator(ctx context.Context) (authn.Authenticator, error) {
	if e.mirrorAuth == nil {
		return e.auth, nil
	}
	// The path of a mirror that stands for several registries begins the names of its
	// repositories.
	at := reference.Reference{Domain: e.host.Addr, Path: strings.TrimPrefix(e.host.Path+"/"+e.ref.Path, "/v2/")}
	c, err := e.mirrorAuth(ctx, at)
	if err != nil {
		return nil, &statusError{status: http.StatusUnauthorized, text: "log in: " + err.Error()}
	}
	if c == nil {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(*normalizeAuth(c)), nil
}

// challengeReplay answers the log-in's question for the challenge with the one
// that the host has already given: that saves a request, and mirrors need not
// have the path that the log-in asks.
type challengeReplay struct {
	scheme, addr string
	header       http.Header
	next         http.RoundTripper
}

func (c *challengeReplay) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != c.addr || req.URL.Path != "/v2/" {
		return c.next.RoundTrip(req)
	}
	if req.URL.Scheme != c.scheme {
		return nil, fmt.Errorf("host speaks %s", c.scheme)
	}
	return &http.Response{
		Status: "401 Unauthorized", StatusCode: http.StatusUnauthorized,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: c.header, Body: http.NoBody, Request: req,
	}, nil
}
