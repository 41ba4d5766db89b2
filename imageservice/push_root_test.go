package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

func mustPush(t *testing.T, s *Service, name, target string) Pushed {
	t.Helper()
	done, err := s.Push(context.Background(), name, PushOptions{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// served is what a registry answers to a GET of a path below /v2/.
func served(t *testing.T, r *imagetest.Registry, path string) []byte {
	t.Helper()
	resp, err := http.Get("http://" + r.Host + "/v2/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return raw
}

// wantServed fails unless the blobs of the image are in the registry's repository, byte for byte.
func wantServed(t *testing.T, r *imagetest.Registry, repository string, i *imagetest.Image) {
	t.Helper()
	for _, blob := range append([][]byte{i.ConfigBlob()}, blobsOf(i)...) {
		if got := served(t, r, repository+"/blobs/"+digest.FromBytes(blob).String()); string(got) != string(blob) {
			t.Errorf("a blob of %d bytes has %d in the registry", len(blob), len(got))
		}
	}
	want, _ := i.Manifest()
	if got := served(t, r, repository+"/manifests/"+i.Digest().String()); string(got) != string(want) {
		t.Errorf("the manifest is %s, want %s", got, want)
	}
}

func blobsOf(i *imagetest.Image) [][]byte {
	var list [][]byte
	for _, l := range i.Layers {
		list = append(list, l.Blob)
	}
	return list
}

func TestPushedImageIsTheOriginal(t *testing.T) {
	s, from, to := newService(t), newRegistry(t), newRegistry(t)
	image := imagetest.New(someLayer("low"), imagetest.NewLayer(imagetest.Tar(imagetest.File("z", "zstd", 0o644)), imagetest.Zstd), someLayer("low"))
	index := &imagetest.Index{Images: []*imagetest.Image{image}}
	name, err := from.PushIndex("test/a", "1", index)
	if err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, name)
	var last []PushedBlob
	done, err := s.Push(context.Background(), name, PushOptions{Target: to.Host + "/other/b:2", Progress: func(list []PushedBlob) { last = list }})
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := index.Manifest()
	if done.Target != to.Host+"/other/b:2" || done.Digest != digest.FromBytes(raw) || done.Note != "" {
		t.Errorf("%+v", done)
	}
	for _, b := range last {
		if !b.Done || b.Existed || b.Sent != b.Size {
			t.Errorf("progress at the end: %+v", b)
		}
	}
	if len(last) != 3 {
		t.Errorf("%d blobs, want the configuration and two layers", len(last))
	}
	wantServed(t, to, "other/b", image)
	if got := served(t, to, "other/b/manifests/2"); string(got) != string(raw) {
		t.Errorf("the tag leads to %s", got)
	}
	// What is there is not sent again, and what another repository has is taken from there.
	puts := len(to.Requests("PUT /v2/other/b/blobs/"))
	mustPush(t, s, name, to.Host+"/other/b:3")
	if again := len(to.Requests("PUT /v2/other/b/blobs/")); again != puts {
		t.Errorf("%d blobs were sent again", again-puts)
	}
}

// unknown answers that a blob is not there: the registry of the tests has one place for
// those of all repositories.
func unknown(w http.ResponseWriter, req *http.Request) bool {
	if req.Method != http.MethodHead || !strings.Contains(req.URL.Path, "/blobs/") {
		return false
	}
	w.WriteHeader(http.StatusNotFound)
	return true
}

func TestPushTakesBlobsFromOtherRepositories(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	image := imagetest.New(someLayer("x"))
	name := push(t, r, "test/a", "1", image)
	mustPull(t, s, name)
	var mounted atomic.Int32
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case unknown(w, req):
			case req.FormValue("mount") != "" && req.FormValue("from") == "test/a":
				mounted.Add(1)
				w.WriteHeader(http.StatusCreated)
			default:
				next.ServeHTTP(w, req)
			}
		})
	})
	mustPush(t, s, name, r.Host+"/test/b:1")
	if mounted.Load() != 2 || len(r.Requests("PUT /v2/test/b/blobs/")) != 0 {
		t.Errorf("%d blobs were mounted; sent: %v", mounted.Load(), r.Requests("PUT"))
	}
	wantServed(t, r, "test/b", image)
}

func TestPushOfAnIndexWithOtherPlatforms(t *testing.T) {
	s, from, to := newService(t), newRegistry(t), newRegistry(t)
	own, foreign := imagetest.New(someLayer("own")), imagetest.New(someLayer("foreign"))
	foreign.Config.Platform = ocispec.Platform{OS: "linux", Architecture: "s390x"}
	name, err := from.PushIndex("test/a", "1", &imagetest.Index{Images: []*imagetest.Image{foreign, own}})
	if err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, name)
	done := mustPush(t, s, name, to.Host+"/test/a:1")
	if done.Digest != own.Digest() || !strings.Contains(done.Note, "only the image of its platform") {
		t.Errorf("%+v", done)
	}
	if want, _ := own.Manifest(); string(served(t, to, "test/a/manifests/1")) != string(want) {
		t.Error("the tag does not lead to the manifest")
	}
}

// The token is asked for the right to write, and to read where blobs are to come from.
func TestPushWithToken(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	image := imagetest.New(someLayer("x"))
	mustPull(t, s, push(t, r, "test/a", "1", image))
	var scopes []string
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch user, password, _ := req.BasicAuth(); {
			case req.URL.Path == "/token" && user == "u" && password == "secret":
				scopes = req.URL.Query()["scope"]
				_ = json.NewEncoder(w).Encode(map[string]string{"token": "t"})
			case req.URL.Path != "/token" && req.Header.Get("Authorization") == "Bearer t":
				next.ServeHTTP(w, req)
			default:
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test"`, r.Host))
				w.WriteHeader(http.StatusUnauthorized)
			}
		})
	})
	target, auth := r.Host+"/test/b:1", &runtimeapi.AuthConfig{Username: "u", Password: "secret"}
	if _, err := s.Push(context.Background(), image.ID(), PushOptions{Target: target, Auth: auth}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(scopes)
	if want := []string{"repository:test/a:pull", "repository:test/b:pull,push"}; !slices.Equal(scopes, want) {
		t.Errorf("scopes %q, want %q", scopes, want)
	}
	_, err := s.Push(context.Background(), image.ID(), PushOptions{Target: target, Auth: &runtimeapi.AuthConfig{Username: "u", Password: "guess"}})
	if !errors.Is(err, errdefs.ErrUnauthenticated) || strings.Contains(err.Error(), "guess") {
		t.Errorf("with a wrong password: %v", err)
	}
	r.Wrap(nil)
	wantServed(t, r, "test/b", image)
}

// A connection that breaks and a registry that is busy are tried again.
func TestPushGoesOnAfterFailures(t *testing.T) {
	s, from, to := newService(t), newRegistry(t), newRegistry(t)
	random := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(random) //nolint:gosec // it only has to be hard to compress
	image := imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.File("random", string(random), 0o644)), imagetest.Gzip))
	name := push(t, from, "test/a", "1", image)
	mustPull(t, s, name)
	var cut, busy atomic.Bool
	to.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case req.Method == http.MethodPut && req.ContentLength > 1<<20 && cut.CompareAndSwap(false, true):
				_, _ = io.CopyN(io.Discard, req.Body, 1<<19)
				panic(http.ErrAbortHandler)
			case strings.Contains(req.URL.Path, "/manifests/") && busy.CompareAndSwap(false, true):
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				next.ServeHTTP(w, req)
			}
		})
	})
	mustPush(t, s, name, to.Host+"/test/a:1")
	if !cut.Load() || !busy.Load() {
		t.Error("nothing failed")
	}
	wantServed(t, to, "test/a", image)
}

func TestPushErrors(t *testing.T) {
	certs := t.TempDir()
	s, r := newService(t, func(o *Options) { o.CertsDirs, o.StallTimeout = []string{certs}, time.Minute }), newRegistry(t)
	impatient := newService(t, func(o *Options) { o.StallTimeout = 2 * time.Second })
	random := make([]byte, 32<<20) // more than sockets take
	image := imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.File("x", string(random), 0o644)), imagetest.Plain))
	name := push(t, r, "test/a", "1", image)
	mustPull(t, s, name)
	mustPull(t, impatient, name)
	hosts := fmt.Sprintf("server = \"http://%s\"\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"http://127.0.0.1:1\"]\n", r.Host)
	if err := errors.Join(os.Mkdir(filepath.Join(certs, "readonly.example"), 0o755), os.WriteFile(filepath.Join(certs, "readonly.example", "hosts.toml"), []byte(hosts), 0o644)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case unknown(w, req):
			case strings.HasPrefix(req.URL.Path, "/v2/forbidden/"):
				http.Error(w, `{"errors":[{"code":"DENIED","message":"not yours"}]}`, http.StatusForbidden)
			case strings.HasPrefix(req.URL.Path, "/v2/slow/") && req.Method == http.MethodPut:
				<-stop
			case strings.HasPrefix(req.URL.Path, "/v2/nowhere/") && req.Method == http.MethodPost:
				w.WriteHeader(http.StatusAccepted)
			default:
				next.ServeHTTP(w, req)
			}
		})
	})
	for what, c := range map[string]struct {
		name, target string
		kind         error
		text         string
	}{
		"no such image":         {"nobody.example/x", r.Host + "/a", errdefs.ErrNotFound, "nobody.example"},
		"no target for an ID":   {image.ID()[:20], "", nil, ""}, // it has one tag, which is the target
		"a malformed target":    {name, "a.example/UPPER", errdefs.ErrInvalidArgument, "UPPER"},
		"another digest":        {name, r.Host + "/a@" + digest.FromString("x").String(), errdefs.ErrInvalidArgument, "the target names digest"},
		"nobody listens":        {name, "127.0.0.1:1/a:1", errdefs.ErrUnavailable, "127.0.0.1:1"},
		"no capability":         {name, "readonly.example/a:1", errdefs.ErrFailedPrecondition, "capability push"},
		"refused":               {name, r.Host + "/forbidden/a:1", errdefs.ErrPermissionDenied, "DENIED not yours"},
		"nowhere to send it to": {name, r.Host + "/nowhere/a:1", errdefs.ErrInvalidArgument, "does not say where"},
	} {
		_, err := s.Push(context.Background(), c.name, PushOptions{Target: c.target})
		if !errors.Is(err, c.kind) || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := impatient.Push(context.Background(), name, PushOptions{Target: r.Host + "/slow/a:1"})
	if !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "nothing of the blob was taken") {
		t.Errorf("nothing is taken: %v", err)
	}
	discarding := newService(t, func(o *Options) { o.DiscardBlobs = true })
	mustPull(t, discarding, name)
	if _, err := discarding.Push(context.Background(), name, PushOptions{}); !errors.Is(err, ErrDiscarded) || !strings.Contains(err.Error(), digest.FromBytes(image.Layers[0].Blob).String()) {
		t.Errorf("an image that was not kept: %v", err)
	}
}
