package imageservice

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// withHosts gives a service the hosts.toml of a registry. $name stands for the
// address of a registry.
func withHosts(t *testing.T, domain, toml string, where map[string]string) func(*Options) {
	t.Helper()
	dir := t.TempDir()
	own := filepath.Join(dir, domain)
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	content := os.Expand(toml, func(name string) string { return where[name] })
	if err := os.WriteFile(filepath.Join(own, "hosts.toml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.CertsDirs = []string{dir} }
}

// breakBlobs makes a registry serve wrong bytes for layers.
func breakBlobs(r *imagetest.Registry, digests ...string) {
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			for _, d := range digests {
				if strings.Contains(req.URL.Path, d) {
					w.(http.Flusher).Flush()
					_, _ = w.Write([]byte("\x1f\x8b wrong bytes"))
					return
				}
			}
			next.ServeHTTP(w, req)
		})
	})
}

func TestMirrorsInOrder(t *testing.T) {
	empty, broken, onlyPull, server := newRegistry(t), newRegistry(t), newRegistry(t), newRegistry(t)
	i := imagetest.New(layerOf(imagetest.File("1", "1", 0o644)), layerOf(imagetest.File("2", "2", 0o644)))
	for _, r := range []*imagetest.Registry{broken, onlyPull, server} {
		push(t, r, "team/app", "v1", i)
	}
	breakBlobs(broken, i.Layers[0].Descriptor.Digest.Encoded())
	s := newService(t, withHosts(t, "registry.example", `
server = "http://$server"
[host."http://127.0.0.1:1"]
[host."http://$empty"]
[host."http://$onlyPull"]
  capabilities = ["pull"]
[host."http://$broken"]
`, map[string]string{"server": server.Host, "empty": empty.Host, "broken": broken.Host, "onlyPull": onlyPull.Host}))
	breakBlobs(onlyPull, i.Layers[0].Descriptor.Digest.Encoded())
	if id := mustPull(t, s, "registry.example/team/app:v1"); id != i.ID() {
		t.Fatal(id)
	}
	if img := status(t, s, "registry.example/team/app:v1"); img == nil || img.RepoTags[0] != "registry.example/team/app:v1" {
		t.Errorf("%v", img)
	}
	if got := onlyPull.Requests("/manifests/v1"); len(got) != 0 {
		t.Errorf("a host that may not resolve was asked for a tag: %q", got)
	}
	if got := empty.Requests("/manifests/v1"); len(got) != 1 || !strings.Contains(got[0], "ns=registry.example") {
		t.Errorf("the first mirror was asked %q", got)
	}
	for name, r := range map[string]*imagetest.Registry{"onlyPull": onlyPull, "broken": broken, "server": server} {
		if got := r.Requests(i.Layers[0].Descriptor.Digest.Encoded()); len(got) == 0 {
			t.Errorf("%s was not asked for the layer that is broken elsewhere", name)
		}
	}
	if got := server.Requests(i.Layers[1].Descriptor.Digest.Encoded()); len(got) != 0 {
		t.Errorf("the server was asked for a layer that a mirror has: %q", got)
	}
}

func TestEveryHostIsInTheError(t *testing.T) {
	empty, angry := newRegistry(t), newRegistry(t)
	angry.Wrap(func(http.Handler) http.Handler { return code(http.StatusTeapot) })
	where := map[string]string{"empty": empty.Host, "angry": angry.Host}
	hostsOf := func(server string) func(*Options) {
		return withHosts(t, "registry.example", `
server = "`+server+`"
[host."http://$empty"]
[host."http://$angry/base"]
`, where)
	}
	s := newService(t, hostsOf("http://127.0.0.1:1"))
	_, err := pullImage(s, "registry.example/app")
	for _, part := range []string{empty.Host + ": 404", angry.Host + "/base: 418", "127.0.0.1:1: ", "refused"} {
		if !strings.Contains(fmt.Sprint(err), part) {
			t.Errorf("error %v does not tell of %q", err, part)
		}
	}
	if !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
		t.Errorf("the registry itself is down, and the error is %v", err)
	}
	s = newService(t, hostsOf("http://$empty"))
	if _, err := pullImage(s, "registry.example/app"); !errors.Is(err, errdefs.ErrNotFound) || strings.HasPrefix(err.Error(), "RegistryUnavailable") {
		t.Errorf("%v", err)
	}
	s = newService(t, withHosts(t, "registry.example", "server = 7", nil))
	if _, err := pullImage(s, "registry.example/app"); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("%v", err)
	}
	s = newService(t)
	if _, err := pullImage(s, "127.0.0.1:1/app"); !strings.HasPrefix(fmt.Sprint(err), "RegistryUnavailable: ") {
		t.Errorf("%v", err)
	}
}

func TestOverridePath(t *testing.T) {
	r := newRegistry(t)
	i := small("x")
	push(t, r, "app", "1", i)
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			rest, ok := strings.CutPrefix(req.URL.Path, "/proxy/hub/")
			if !ok {
				http.NotFound(w, req)
				return
			}
			req.URL.Path = "/v2/" + rest
			next.ServeHTTP(w, req)
		})
	})
	s := newService(t, withHosts(t, "registry.example", "server = \"http://$r/proxy/hub\"\noverride_path = true\n", map[string]string{"r": r.Host}))
	mustPull(t, s, "registry.example/app:1")
}

// heard collects the credentials that a host was sent.
type heard struct {
	mu   sync.Mutex
	list []string
}

func (h *heard) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h.mu.Lock()
		for _, name := range []string{"Authorization", "X-Secret", "Cookie"} {
			if v := req.Header.Get(name); v != "" {
				h.list = append(h.list, req.URL.Path+": "+v)
			}
		}
		h.mu.Unlock()
		next.ServeHTTP(w, req)
	})
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string{}, h.list...)
}

// guard lets only requests through whose Authorization is right.
func guard(want, challenge string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`))
			return
		}
		next.ServeHTTP(w, req)
	})
}

const user1, password1 = "alice", "s3cret-and-rare"

var basic1 = "Basic " + base64.StdEncoding.EncodeToString([]byte(user1+":"+password1))

func pullWith(s *Service, name string, auth *runtimeapi.AuthConfig) error {
	_, err := s.PullImage(bg, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}, Auth: auth})
	return err
}

func TestBasicAuth(t *testing.T) {
	r := newRegistry(t)
	name := push(t, r, "private", "1", small("x"))
	r.Wrap(func(next http.Handler) http.Handler { return guard(basic1, `Basic realm="r"`, next) })
	for what, c := range map[string]struct {
		auth *runtimeapi.AuthConfig
		ok   bool
	}{
		"none":              {nil, false},
		"empty":             {&runtimeapi.AuthConfig{}, false},
		"wrong":             {&runtimeapi.AuthConfig{Username: user1, Password: "x"}, false},
		"user and password": {&runtimeapi.AuthConfig{Username: user1, Password: password1}, true},
		"auth":              {&runtimeapi.AuthConfig{Auth: strings.TrimPrefix(basic1, "Basic ")}, true},
		"for this server":   {&runtimeapi.AuthConfig{Username: user1, Password: password1, ServerAddress: "http://" + r.Host + "/v1/"}, true},
		"for another":       {&runtimeapi.AuthConfig{Username: user1, Password: password1, ServerAddress: "other.example"}, false},
	} {
		err := pullWith(newService(t), name, c.auth)
		if c.ok && err != nil || !c.ok && !errors.Is(err, errdefs.ErrUnauthenticated) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && strings.Contains(err.Error(), password1) {
			t.Errorf("%s: the password is in the error: %v", what, err)
		}
	}
}

// tokenServer answers for a registry with bearer tokens.
func tokenServer(t *testing.T, r *imagetest.Registry, accept func(*http.Request) bool) {
	const token = "the-token"
	r.Wrap(func(next http.Handler) http.Handler {
		guarded := guard("Bearer "+token, fmt.Sprintf(`Bearer realm="http://%s/token",service="s",scope="repository:private:pull"`, r.Host), next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != "/token" {
				guarded.ServeHTTP(w, req)
				return
			}
			if err := req.ParseForm(); err != nil || req.Form.Get("scope") != "repository:private:pull" || req.Form.Get("service") != "s" {
				t.Errorf("token request %v, %v", req.Form, err)
			}
			if !accept(req) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if err := json.NewEncoder(w).Encode(map[string]string{"token": token}); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestBearerAuth(t *testing.T) {
	r := newRegistry(t)
	name := push(t, r, "private", "1", small("x"))
	tokenServer(t, r, func(req *http.Request) bool {
		return req.Header.Get("Authorization") == basic1 || req.Form.Get("refresh_token") == "identity" && req.Method == http.MethodPost
	})
	for what, c := range map[string]struct {
		auth *runtimeapi.AuthConfig
		ok   bool
	}{
		"none":           {nil, false},
		"password":       {&runtimeapi.AuthConfig{Username: user1, Password: password1}, true},
		"identity token": {&runtimeapi.AuthConfig{IdentityToken: "identity"}, true},
		"registry token": {&runtimeapi.AuthConfig{RegistryToken: "the-token"}, true},
		"wrong token":    {&runtimeapi.AuthConfig{RegistryToken: "no"}, false},
	} {
		err := pullWith(newService(t), name, c.auth)
		if c.ok && err != nil || !c.ok && !errors.Is(err, errdefs.ErrUnauthenticated) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// blobsElsewhere has a registry send its clients to another host for blobs.
func blobsElsewhere(storage *imagetest.Registry) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				http.Redirect(w, req, "http://"+storage.Host+req.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

// TestCredentialsStay looks at what mirrors and the targets of redirects are
// sent.
func TestCredentialsStay(t *testing.T) {
	i := small("x")
	for _, kind := range []string{"basic", "bearer"} {
		r, mirror, storage := newRegistry(t), newRegistry(t), newRegistry(t)
		name := push(t, r, "private", "1", i)
		push(t, storage, "private", "1", i)
		var atMirror, atStorage, atRegistry heard
		challenge := `Basic realm="mirror"`
		if kind == "bearer" {
			challenge = fmt.Sprintf(`Bearer realm="http://%s/token",service="s"`, mirror.Host)
		}
		mirror.Wrap(func(next http.Handler) http.Handler { return atMirror.wrap(guard("never", challenge, next)) })
		storage.Wrap(atStorage.wrap)
		redirect := blobsElsewhere(storage)
		r.Wrap(func(next http.Handler) http.Handler {
			return atRegistry.wrap(guard(basic1, `Basic realm="r"`, redirect(next)))
		})
		if kind == "bearer" {
			challenge := fmt.Sprintf(`Bearer realm="http://%s/token",service="s"`, r.Host)
			r.Wrap(func(next http.Handler) http.Handler {
				guarded := guard("Bearer tok", challenge, redirect(next))
				return atRegistry.wrap(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.URL.Path == "/token" {
						_, _ = w.Write([]byte(`{"token":"tok"}`))
						return
					}
					guarded.ServeHTTP(w, req)
				}))
			})
		}
		s := newService(t, withHosts(t, r.Host, `
server = "http://$r"
[header]
  x-secret = "for the server"
[host."http://$mirror"]
`, map[string]string{"r": r.Host, "mirror": mirror.Host}))
		if err := pullWith(s, name, &runtimeapi.AuthConfig{Username: user1, Password: password1}); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if len(atRegistry.all()) == 0 || len(mirror.Requests("/manifests/")) == 0 || len(storage.Requests("/blobs/")) == 0 {
			t.Errorf("%s: the test does not test", kind)
		}
		if got := atMirror.all(); len(got) != 0 {
			t.Errorf("%s: the mirror was sent %q", kind, got)
		}
		if got := atStorage.all(); len(got) != 0 {
			t.Errorf("%s: the target of the redirect was sent %q", kind, got)
		}
	}
}

// A mirror is sent what the node's file has for the mirror, whatever the pull brings, and
// nobody else is.
func TestMirrorsHaveTheirOwnCredentials(t *testing.T) {
	const mirrors = "Basic bWlycm9yOm93bg==" // mirror:own
	r, mirror, storage := newRegistry(t), newRegistry(t), newRegistry(t)
	i := small("x")
	for _, has := range []*imagetest.Registry{r, mirror, storage} {
		push(t, has, "private", "1", i)
	}
	var atMirror, atStorage, atRegistry heard
	r.Wrap(atRegistry.wrap)
	storage.Wrap(atStorage.wrap)
	mirror.Wrap(func(next http.Handler) http.Handler {
		return atMirror.wrap(guard(mirrors, `Basic realm="mirror"`, blobsElsewhere(storage)(next)))
	})
	file := filepath.Join(t.TempDir(), "config.json")
	onlyMirror := withHosts(t, "registry.example", "server = \"http://$r\"\n[host.\"http://$mirror\"]\n", map[string]string{"r": r.Host, "mirror": mirror.Host})
	write := func(host, auth string) {
		content := fmt.Sprintf(`{"auths": {"registry.example": {"auth": %q}, %q: {"auth": %q}}}`, strings.TrimPrefix(basic1, "Basic "), host, auth)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for what, auth := range map[string]*runtimeapi.AuthConfig{"none": nil, "the pod's": {Username: user1, Password: password1}} {
		for _, entry := range []string{mirror.Host, mirror.Host + "/private"} {
			write(entry, strings.TrimPrefix(mirrors, "Basic "))
			if err := pullWith(newService(t, onlyMirror, func(o *Options) { o.DockerConfig = file }), "registry.example/private:1", auth); err != nil {
				t.Errorf("%s, entry %s: %v", what, entry, err)
			}
		}
	}
	for _, sent := range atMirror.all() {
		if !strings.HasSuffix(sent, ": "+mirrors) {
			t.Errorf("the mirror was sent %q", sent)
		}
	}
	if len(atMirror.all()) == 0 || len(storage.Requests("/blobs/")) == 0 {
		t.Error("the test does not test")
	}
	if got := append(atStorage.all(), atRegistry.all()...); len(got) != 0 {
		t.Errorf("others were sent %q", got)
	}
	// What the file has is wrong: the next host is asked.
	write(mirror.Host, "not base64!")
	if err := pullWith(newService(t, onlyMirror, func(o *Options) { o.DockerConfig = file }), "registry.example/private:1", &runtimeapi.AuthConfig{Username: user1, Password: password1}); err != nil {
		t.Error(err)
	}
	if len(r.Requests("/manifests/1")) == 0 {
		t.Error("the registry was not asked")
	}
}

// Where a registry sends us for blobs is no place to log in: it would name a server for
// tokens of its own.
func TestNoLogInWhereARedirectLeads(t *testing.T) {
	r, storage := newRegistry(t), newRegistry(t)
	name := push(t, r, "private", "1", small("x"))
	r.Wrap(blobsElsewhere(storage))
	var atStorage heard
	storage.Wrap(func(next http.Handler) http.Handler {
		return atStorage.wrap(guard("never", fmt.Sprintf(`Bearer realm="http://%s/token",service="s"`, storage.Host), next))
	})
	err := pullWith(newService(t), name, &runtimeapi.AuthConfig{Username: user1, Password: password1})
	if !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Error(err)
	}
	if got := atStorage.all(); len(got) != 0 {
		t.Errorf("the target of the redirect was sent %q", got)
	}
}

// Two callers with different credentials do not share a pull: one that may not
// see the image does not get it by coming second.
func TestCredentialsAreNotShared(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	name := push(t, r, "private", "1", small("x"))
	entered := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	r.Wrap(func(next http.Handler) http.Handler {
		return guard(basic1, `Basic realm="r"`, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			once.Do(func() { close(entered) })
			<-release
			next.ServeHTTP(w, req)
		}))
	})
	result := make(chan error, 1)
	go func() { result <- pullWith(s, name, &runtimeapi.AuthConfig{Username: user1, Password: password1}) }()
	<-entered
	if err := pullWith(s, name, nil); !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("without credentials: %v", err)
	}
	close(release)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestRedirectsThatAreRefused(t *testing.T) {
	r := newRegistry(t)
	name := push(t, r, "app", "1", small("x"))
	for _, target := range []string{"ftp://127.0.0.1/x", "file:///etc/passwd"} {
		r.Wrap(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, target, http.StatusFound) })
		})
		s := newService(t)
		if _, err := pullImage(s, name); err == nil {
			t.Errorf("%s: pulled", target)
		}
		expectEmpty(t, s)
	}
}

// A layer that the manifest says is elsewhere as well is fetched from there when
// the registry has it not, without credentials and only over TLS.
func TestForeignLayers(t *testing.T) {
	l := layerOf(imagetest.File("foreign", "x", 0o644))
	ca := newAuthority(t)
	var atStorage heard
	storage := imagetest.ServeListener(ca.listen(t, nil))
	defer storage.Close()
	if err := storage.PutBlob("files", l.Blob); err != nil {
		t.Fatal(err)
	}
	storage.Wrap(atStorage.wrap)
	for scheme, ok := range map[string]bool{"https": true, "http": false} {
		r := newRegistry(t)
		l.Descriptor.URLs = []string{scheme + "://" + storage.Host + "/v2/files/blobs/" + l.Descriptor.Digest.String()}
		i := imagetest.New(l)
		name := push(t, r, "app", "1", i)
		r.Wrap(func(next http.Handler) http.Handler {
			return guard(basic1, `Basic realm="r"`, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.Contains(req.URL.Path, l.Descriptor.Digest.Encoded()) {
					http.NotFound(w, req)
					return
				}
				next.ServeHTTP(w, req)
			}))
		})
		s := newService(t, withHosts(t, r.Host, "server = \"http://$r\"\nca = \"$ca\"\n", map[string]string{"r": r.Host, "ca": ca.file}))
		err := pullWith(s, name, &runtimeapi.AuthConfig{Username: user1, Password: password1})
		if ok && err != nil || !ok && !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
	if got := atStorage.all(); len(got) != 0 {
		t.Errorf("the other server was sent %q", got)
	}
	if len(storage.Requests("GET")) == 0 {
		t.Error("the test does not test")
	}
}

// The node's own credentials are for pulls that bring none.
func TestDockerConfig(t *testing.T) {
	r := newRegistry(t)
	name := push(t, r, "private", "1", small("x"))
	r.Wrap(func(next http.Handler) http.Handler { return guard(basic1, `Basic realm="r"`, next) })
	file := filepath.Join(t.TempDir(), "config.json")
	with := func(o *Options) { o.DockerConfig = file }
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newService(t, with)
	write(`{"auths": {"` + r.Host + `": {"auth": "` + strings.TrimPrefix(basic1, "Basic ") + `"}}}`)
	if err := pullWith(s, name, &runtimeapi.AuthConfig{Username: user1, Password: "x"}); !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("with the pod's own wrong password: %v", err)
	}
	if err := pullWith(s, name, nil); err != nil {
		t.Error(err)
	}
	write(`{"auths": {"other.example": {"auth": "` + strings.TrimPrefix(basic1, "Basic ") + `"}}}`)
	if err := pullWith(newService(t, with), name, nil); !errors.Is(err, errdefs.ErrUnauthenticated) {
		t.Errorf("with credentials for another registry: %v", err)
	}
	write(`{"auths": `)
	if err := pullWith(newService(t, with), name, nil); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("with a broken file: %v", err)
	}
}
