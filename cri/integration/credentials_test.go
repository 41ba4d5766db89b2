package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// guard is what a registry asks for: a password, or a token of its own server.
type guard struct {
	user, password  string // with Basic
	identity, token string // with Bearer: token, or what identity is exchanged for

	mu    sync.Mutex
	asked []string // Authorization of requests, and grants asked of the token server
}

func (g *guard) seen() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.asked)
}

// protect puts a guard in front of a registry.
func (g *guard) protect(r *imagetest.Registry) {
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/token" {
				g.exchange(w, req)
				return
			}
			g.note(req.Header.Get("Authorization"))
			user, password, basic := req.BasicAuth()
			switch {
			case g.user != "" && basic && user == g.user && password == g.password,
				g.token != "" && req.Header.Get("Authorization") == "Bearer "+g.token:
				next.ServeHTTP(w, req)
				return
			case g.user != "":
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			default:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
			}
			w.WriteHeader(http.StatusUnauthorized)
		})
	})
}

// exchange gives the token for an identity token, as OAuth 2 refreshes one.
func (g *guard) exchange(w http.ResponseWriter, req *http.Request) {
	g.note(req.Method + " " + req.FormValue("grant_type") + " " + req.FormValue("refresh_token"))
	if g.identity == "" || req.FormValue("refresh_token") != g.identity {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"access_token": g.token, "token": g.token})
}

func (g *guard) note(what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, what)
}

// Registries that ask for credentials get those of the request, in each form that it can have
// them, and only the registry that they are for.
func TestCredentialsOfARequest(t *testing.T) {
	private, err := imagetest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(private.Close)
	image := imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.File("private", "private", 0o600)), imagetest.Gzip))
	basic, bearer, identity := guard{user: "u", password: "p:\nq"}, guard{token: "secret-token"}, guard{identity: "secret-identity", token: "fresh"}
	pair := base64.StdEncoding.EncodeToString([]byte("u:p:\nq"))
	for name, c := range map[string]struct {
		guard *guard
		auth  *runtimeapi.AuthConfig
		good  bool
	}{
		"user and password":        {&basic, &runtimeapi.AuthConfig{Username: "u", Password: "p:\nq"}, true},
		"of this server":           {&basic, &runtimeapi.AuthConfig{Username: "u", Password: "p:\nq", ServerAddress: "http://" + private.Host + "/v2/"}, true},
		"of another server":        {&basic, &runtimeapi.AuthConfig{Username: "u", Password: "p:\nq", ServerAddress: "https://registry.example"}, false},
		"both in one":              {&basic, &runtimeapi.AuthConfig{Auth: pair}, true},
		"a wrong password":         {&basic, &runtimeapi.AuthConfig{Username: "u", Password: "p"}, false},
		"none":                     {&basic, nil, false},
		"a registry token":         {&bearer, &runtimeapi.AuthConfig{RegistryToken: "secret-token"}, true},
		"a wrong registry token":   {&bearer, &runtimeapi.AuthConfig{RegistryToken: "other"}, false},
		"an identity token":        {&identity, &runtimeapi.AuthConfig{Username: "00000000", IdentityToken: "secret-identity"}, true},
		"a wrong identity token":   {&identity, &runtimeapi.AuthConfig{IdentityToken: "other"}, false},
		"credentials of another's": {&bearer, &runtimeapi.AuthConfig{RegistryToken: "secret-token", ServerAddress: "registry.example"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.guard.asked = nil
			c.guard.protect(private)
			ref, err := private.Push("private", "v1", image)
			if err != nil {
				t.Fatal(err)
			}
			spec := &runtimeapi.ImageSpec{
				Image: ref, UserSpecifiedImage: "private:v1", RuntimeHandler: "berth", ImageRef: ref, Annotations: map[string]string{"a": "b"},
			}
			_, err = shared.images.PullImage(t.Context(), spec, c.auth, nil)
			switch {
			case c.good && err != nil:
				t.Errorf("the pull: %v; the registry was told %q", err, c.guard.seen())
			case !c.good && statusCode(err) != codes.Unauthenticated && statusCode(err) != codes.PermissionDenied:
				t.Errorf("the pull is %v", err)
			}
			if c.auth.GetServerAddress() != "" && !c.good && slices.ContainsFunc(c.guard.seen(), func(s string) bool { return s != "" && s != "GET  " }) {
				t.Errorf("the registry was told %q", c.guard.seen())
			}
			if resp, err := shared.images.ImageStatus(t.Context(), spec, false); err != nil || (resp.Image != nil) != c.good {
				t.Errorf("the image is %v, %v", resp, err)
			}
			shared.removeImage(t, ref)
		})
	}
}
