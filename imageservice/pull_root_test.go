package imageservice

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPullByDigest(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i := small("x")
	name := push(t, r, "app", "v1", i)
	byDigest := strings.TrimSuffix(name, ":v1") + "@" + i.Digest().String()
	id := mustPull(t, s, byDigest)
	img := status(t, s, byDigest)
	if img.Id != id || len(img.RepoTags) != 0 || len(img.RepoDigests) != 1 || img.RepoDigests[0] != byDigest {
		t.Errorf("%v", img)
	}
	if len(r.Requests("/manifests/v1")) != 0 {
		t.Error("the tag was asked for")
	}
}

func TestKindsOfImages(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	archive := imagetest.Tar(imagetest.File("text", "x", 0o644))
	docker := imagetest.New(imagetest.NewLayer(archive, imagetest.Gzip))
	docker.Docker = true
	mixed := imagetest.New(
		imagetest.NewLayer(archive, imagetest.Plain),
		imagetest.NewLayer(imagetest.Tar(imagetest.File("z", "z", 0o644)), imagetest.Zstd),
		imagetest.NewLayer(imagetest.Tar(imagetest.File("g", "g", 0o644)), imagetest.Gzip))
	for name, i := range map[string]*imagetest.Image{"docker": docker, "mixed": mixed} {
		if id := mustPull(t, s, push(t, r, name, "1", i)); id != i.ID() {
			t.Errorf("%s: %s", name, id)
		}
	}
	if got := s.Counters(); got.Layers != 3 {
		t.Errorf("%d layers unpacked, want 3: one is in both images", got.Layers)
	}
}

func TestIndex(t *testing.T) {
	arm, amd := ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, ocispec.Platform{OS: "linux", Architecture: "amd64"}
	windows := ocispec.Platform{OS: "windows", Architecture: "amd64"}
	for _, docker := range []bool{false, true} {
		r := newRegistry(t)
		x := &imagetest.Index{Docker: docker}
		ids := map[string]string{}
		for _, p := range []ocispec.Platform{windows, arm, amd} {
			i := small(p.Architecture + p.OS)
			i.Config.Platform, i.Docker = p, docker
			x.Images = append(x.Images, i)
			ids[manifest.Format(p)] = i.ID()
		}
		name, err := r.PushIndex("multi", "1", x)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []ocispec.Platform{arm, amd} {
			s := newService(t, func(o *Options) { o.Platform = &p })
			if id := mustPull(t, s, name); id != ids[manifest.Format(p)] {
				t.Errorf("%s: %s", manifest.Format(p), id)
			}
			content, _ := x.Manifest()
			if img := status(t, s, name); !strings.HasSuffix(img.RepoDigests[0], digest.FromBytes(content).String()) {
				t.Errorf("repository digest is not that of the index: %v", img.RepoDigests)
			}
		}
		s := newService(t, func(o *Options) { o.Platform = &ocispec.Platform{OS: "linux", Architecture: "riscv64"} })
		_, err = pullImage(s, name)
		if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "windows/amd64, linux/arm64/v8, linux/amd64") {
			t.Errorf("error %v does not list the platforms", err)
		}
		_, err = pullImage(s, push(t, r, "single", "1", x.Images[1]))
		if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), "linux/arm64/v8") {
			t.Errorf("image for another platform: %v", err)
		}
		expectEmpty(t, s)
	}
}

// TestJoin pulls one image many times at once.
func TestJoin(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	shared := layerOf(imagetest.File("shared", strings.Repeat("x", 1<<20), 0o644))
	one, two := imagetest.New(shared, layerOf(imagetest.File("1", "1", 0o644))), imagetest.New(shared, layerOf(imagetest.File("2", "2", 0o644)))
	names := []string{push(t, r, "one", "1", one), push(t, r, "two", "1", two)}
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			time.Sleep(20 * time.Millisecond) // so that they meet
			next.ServeHTTP(w, req)
		})
	})
	var wg sync.WaitGroup
	for n := range 100 {
		wg.Go(func() {
			if _, err := pullImage(s, names[n%2]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, l := range []imagetest.Layer{shared, one.Layers[1], two.Layers[1]} {
		if got := r.Requests(l.Descriptor.Digest.Encoded()); len(got) != 1 {
			t.Errorf("layer fetched %d times: %v", len(got), got)
		}
	}
	if c := s.Counters(); c.Layers != 3 || c.Blobs != 3 {
		t.Errorf("%+v", c)
	}
}

// A layer's first puller fails; the one who waits for it gets it by itself.
func TestWaiterTakesOver(t *testing.T) {
	s, good, bad := newService(t), newRegistry(t), newRegistry(t)
	shared := layerOf(imagetest.File("shared", strings.Repeat("x", 1<<20), 0o644))
	i := imagetest.New(shared)
	started, release := make(chan struct{}), make(chan struct{})
	bad.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, shared.Descriptor.Digest.Encoded()) {
				close(started)
				<-release
				http.Error(w, "gone", http.StatusNotFound)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	badName, goodName := push(t, bad, "a", "1", i), push(t, good, "a", "1", i)
	results := make(chan error, 2)
	go func() { _, err := pullImage(s, badName); results <- err }()
	<-started
	go func() { _, err := pullImage(s, goodName); results <- err }()
	waitFor(t, "the second pull to wait for the first one's layer", func() bool {
		return len(s.Pulls()) == 2 && len(good.Requests("blobs")) == 1
	})
	close(release)
	var errs []error
	for range 2 {
		if err := <-results; err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) != 1 || !errors.Is(errs[0], errdefs.ErrNotFound) {
		t.Errorf("%v", errs)
	}
	if status(t, s, goodName) == nil {
		t.Error("the good pull left no image")
	}
}

func TestPullGoesOnWithoutCaller(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	name := push(t, r, "app", "1", small("x"))
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	release := make(chan struct{})
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			cancel()
			<-release
			next.ServeHTTP(w, req)
		})
	})
	_, err := s.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if pulls := s.Pulls(); len(pulls) != 1 || pulls[0].Ref != name || pulls[0].Stage != StageResolve {
		t.Errorf("%+v", pulls)
	}
	close(release)
	waitFor(t, "the pull to end", func() bool { return len(s.Pulls()) == 0 })
	if status(t, s, name) == nil {
		t.Error("no image")
	}
}

func TestCloseUndoesPulls(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	l := layerOf(imagetest.File("f", strings.Repeat("x", 1<<20), 0o644))
	name := push(t, r, "app", "1", imagetest.New(layerOf(imagetest.File("g", "g", 0o644)), l))
	hang := make(chan struct{})
	defer close(hang)
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, l.Descriptor.Digest.Encoded()) {
				w.Header().Set("Content-Length", fmt.Sprint(len(l.Blob)))
				_, _ = w.Write(l.Blob[:100])
				w.(http.Flusher).Flush()
				select {
				case <-hang:
				case <-req.Context().Done():
				}
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	result := make(chan error, 1)
	go func() { _, err := pullImage(s, name); result <- err }()
	waitFor(t, "the layer to begin", func() bool {
		pulls := s.Pulls()
		return len(pulls) == 1 && len(pulls[0].Layers) == 2 && pulls[0].Layers[1].Fetched == 100 && pulls[0].Layers[0].Done
	})
	s.Close()
	if err := <-result; !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	expectEmpty(t, s)
	if _, err := pullImage(s, name); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a new pull: %v", err)
	}
}

// TestBadImages pulls what must not come in: each has an error of the right kind
// and leaves nothing.
func TestBadImages(t *testing.T) {
	good := layerOf(imagetest.File("f", strings.Repeat("0123456789", 50_000), 0o644))
	manifestOf := func(change func(m map[string]any)) func(*testing.T, *imagetest.Registry) string {
		return func(t *testing.T, r *imagetest.Registry) string {
			i := imagetest.New(good)
			name := push(t, r, "bad", "1", i)
			content, mediaType := i.Manifest()
			var m map[string]any
			if err := json.Unmarshal(content, &m); err != nil {
				t.Fatal(err)
			}
			change(m)
			content, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.PutManifest("bad", "1", mediaType, content); err != nil {
				t.Fatal(err)
			}
			return name
		}
	}
	layerIs := func(l imagetest.Layer) func(*testing.T, *imagetest.Registry) string {
		return func(t *testing.T, r *imagetest.Registry) string {
			return push(t, r, "bad", "1", imagetest.New(good, l))
		}
	}
	answer := func(part string, h http.HandlerFunc) func(*testing.T, *imagetest.Registry) string {
		return func(t *testing.T, r *imagetest.Registry) string {
			name := push(t, r, "bad", "1", imagetest.New(good))
			r.Wrap(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if strings.Contains(req.URL.Path, part) {
						h(w, req)
						return
					}
					next.ServeHTTP(w, req)
				})
			})
			return name
		}
	}
	wrongDiffID := good
	wrongDiffID.DiffID = digest.FromString("else")
	first := func(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }
	config := imagetest.New(good).ConfigBlob()
	for name, c := range map[string]struct {
		setUp func(*testing.T, *imagetest.Registry) string
		kind  error
		text  string
	}{
		"unknown tag":      {func(_ *testing.T, r *imagetest.Registry) string { return r.Host + "/none:1" }, errdefs.ErrNotFound, "404"},
		"no name":          {func(*testing.T, *imagetest.Registry) string { return "" }, errdefs.ErrInvalidArgument, "empty"},
		"no valid name":    {func(*testing.T, *imagetest.Registry) string { return "Not A Name" }, errdefs.ErrInvalidArgument, "Not A Name"},
		"an ID":            {func(*testing.T, *imagetest.Registry) string { return digest.FromString("x").String() }, errdefs.ErrInvalidArgument, "image ID"},
		"a page of HTML":   {answer("/manifests/", html), errdefs.ErrInvalidArgument, "not JSON"},
		"empty answer":     {answer("/manifests/", func(http.ResponseWriter, *http.Request) {}), errdefs.ErrInvalidArgument, "not JSON"},
		"endless manifest": {answer("/manifests/", endless), errdefs.ErrInvalidArgument, "longer than"},
		"endless config":   {answer(digest.FromBytes(config).Encoded(), endless), errdefs.ErrInvalidArgument, "longer than"},
		"forbidden":        {answer("/manifests/", code(http.StatusForbidden)), errdefs.ErrPermissionDenied, "403"},
		"unauthorized":     {answer("/manifests/", code(http.StatusUnauthorized)), errdefs.ErrUnauthenticated, "401"},
		"endless redirects": {answer("/manifests/", func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, req.URL.Path+"x", http.StatusFound)
		}), nil, "redirects"},
		"not found blob":      {answer(good.Descriptor.Digest.Encoded(), code(http.StatusNotFound)), errdefs.ErrNotFound, "404"},
		"wrong blob":          {answer(good.Descriptor.Digest.Encoded(), fixed(good.Blob[:len(good.Blob)-1], "x")), errdefs.ErrDataLoss, "digest"},
		"longer blob":         {answer(good.Descriptor.Digest.Encoded(), fixed(good.Blob, "x")), errdefs.ErrDataLoss, "sends"},
		"blob without an end": {answer(good.Descriptor.Digest.Encoded(), chunked(good.Blob, "x")), errdefs.ErrDataLoss, "longer"},
		"blob that ends":      {answer(good.Descriptor.Digest.Encoded(), chunked(good.Blob[:500])), errdefs.ErrDataLoss, "ended after"},
		"blob that is cut": {answer(good.Descriptor.Digest.Encoded(), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good.Blob)))
			_, _ = w.Write(good.Blob[:500])
			panic(http.ErrAbortHandler)
		}), registry.ErrUnavailable, "EOF"},
		"wrong config":        {answer(digest.FromBytes(config).Encoded(), fixed([]byte("{}"))), errdefs.ErrDataLoss, "digest"},
		"wrong DiffID":        {layerIs(wrongDiffID), errdefs.ErrDataLoss, "DiffID"},
		"hostile layer":       {layerIs(layerOf(imagetest.File("../evil", "x", 0o644))), errdefs.ErrInvalidArgument, "out of the root"},
		"hostile and deep":    {layerIs(layerOf(imagetest.Dir(strings.Repeat("d/", 2000), 0o755), imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 1 << 33}})), errdefs.ErrInvalidArgument, "owner"},
		"mixed kinds":         {manifestOf(func(m map[string]any) { m["manifests"] = []any{} }), errdefs.ErrInvalidArgument, "not clearly"},
		"claims to be index":  {manifestOf(func(m map[string]any) { m["mediaType"] = ocispec.MediaTypeImageIndex }), errdefs.ErrInvalidArgument, "other kind"},
		"claims another type": {manifestOf(func(m map[string]any) { m["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json" }), errdefs.ErrInvalidArgument, "calls itself"},
		"schema 1":            {manifestOf(func(m map[string]any) { m["fsLayers"] = []any{} }), errdefs.ErrInvalidArgument, "schema 1"},
		"digest is a path":    {manifestOf(func(m map[string]any) { first(m)["digest"] = "sha256:../../../../etc/passwd" }), errdefs.ErrInvalidArgument, "digest"},
		"unknown algorithm":   {manifestOf(func(m map[string]any) { first(m)["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e" }), errdefs.ErrInvalidArgument, "algorithm"},
		"negative size":       {manifestOf(func(m map[string]any) { first(m)["size"] = -1 }), errdefs.ErrInvalidArgument, "size"},
		"smaller than told":   {manifestOf(func(m map[string]any) { first(m)["size"] = len(good.Blob) + 1 }), errdefs.ErrDataLoss, "sends"},
		"larger than told":    {manifestOf(func(m map[string]any) { first(m)["size"] = len(good.Blob) - 1 }), errdefs.ErrDataLoss, "sends"},
		"encrypted layer": {manifestOf(func(m map[string]any) {
			first(m)["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
		}), errdefs.ErrInvalidArgument, "encrypted"},
		"layer is not tar":    {manifestOf(func(m map[string]any) { first(m)["mediaType"] = "text/html" }), errdefs.ErrInvalidArgument, "media type"},
		"layers do not match": {manifestOf(func(m map[string]any) { m["layers"] = []any{} }), errdefs.ErrInvalidArgument, "describes 1 layers"},
		"too many layers": {manifestOf(func(m map[string]any) {
			for range manifest.MaxLayers {
				m["layers"] = append(m["layers"].([]any), first(m))
			}
		}), errdefs.ErrInvalidArgument, "more than 500"},
	} {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			s, r := newService(t), newRegistry(t)
			_, err := pullImage(s, c.setUp(t, r))
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %v with %q", err, c.kind, c.text)
			}
			expectEmpty(t, s)
			s.Close()
			r.Close()
			waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2 })
		})
	}
}

func html(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, "<html><body>Welcome to our proxy</body></html>")
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for block := make([]byte, 1<<20); ; {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func code(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) }
}

func fixed(content []byte, more ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(content)
		_, _ = io.WriteString(w, strings.Join(more, ""))
	}
}

// chunked sends without telling the length.
func chunked(content []byte, more ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		w.(http.Flusher).Flush()
		fixed(content, more...)(w, req)
	}
}

func TestIndexLoop(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	// An index of an index of an index …, deeper than allowed.
	inner, mediaType := small("x").Manifest()
	push(t, r, "loop", "0", small("x"))
	for range manifest.MaxIndexDepth + 2 {
		index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
		index.SchemaVersion = 2
		index.Manifests = []ocispec.Descriptor{{MediaType: mediaType, Digest: digest.FromBytes(inner), Size: int64(len(inner))}}
		var err error
		if inner, err = json.Marshal(index); err != nil {
			t.Fatal(err)
		}
		mediaType = index.MediaType
		if err := r.PutManifest("loop", "1", mediaType, inner); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pullImage(s, r.Host+"/loop:1"); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "nested") {
		t.Errorf("%v", err)
	}
}

func TestStall(t *testing.T) {
	l := layerOf(imagetest.File("f", strings.Repeat("0123456789", 200_000), 0o644))
	i := imagetest.New(l)
	for name, part := range map[string]string{"manifest": "/manifests/", "config": strings.TrimPrefix(i.ID(), "sha256:"), "layer": l.Descriptor.Digest.Encoded()} {
		for _, kind := range []string{"silent", "headers only", "trickle"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				s, r := newService(t, func(o *Options) { o.StallTimeout = 100 * time.Millisecond }), newRegistry(t)
				image := push(t, r, "slow", "1", i)
				r.Wrap(func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
						if strings.Contains(req.URL.Path, part) {
							stall(w, req, kind)
							return
						}
						next.ServeHTTP(w, req)
					})
				})
				_, err := pullImage(s, image)
				if err == nil || !strings.HasPrefix(err.Error(), "RegistryUnavailable") || !strings.Contains(err.Error(), "stalled") {
					t.Errorf("%v", err)
				}
				expectEmpty(t, s)
			})
		}
	}
}

// stall answers in a way that never ends, until the client leaves.
func stall(w http.ResponseWriter, req *http.Request, kind string) {
	if kind != "silent" {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
	}
	for {
		select {
		case <-req.Context().Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
		if kind == "trickle" {
			_, _ = w.Write([]byte("x"))
			w.(http.Flusher).Flush()
		}
	}
}

func TestTransientErrorsAreRetried(t *testing.T) {
	for _, status := range []int{429, 500, 502, 503, 504} {
		s, r := newService(t), newRegistry(t)
		name := push(t, r, "flaky", "1", small("x"))
		var mu sync.Mutex
		seen := map[string]int{}
		r.Wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				mu.Lock()
				seen[req.URL.Path]++
				n := seen[req.URL.Path]
				mu.Unlock()
				if n <= 2 {
					w.Header().Set("Retry-After", "0")
					w.WriteHeader(status)
					return
				}
				next.ServeHTTP(w, req)
			})
		})
		if _, err := pullImage(s, name); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// A registry that is asked too early, twice and in vain, has the pull fail: it is given the
// time that it asked for.
func TestRetryAfterIsHonoured(t *testing.T) {
	i := small("x")
	for name, c := range map[string]struct {
		status int
		part   string
		after  func() string
	}{
		"429 at a tag":  {http.StatusTooManyRequests, "/manifests/", func() string { return "1" }},
		"503 at a blob": {http.StatusServiceUnavailable, i.Layers[0].Descriptor.Digest.Encoded(), func() string { return "1" }},
		"503 with a date": {http.StatusServiceUnavailable, "/manifests/", func() string {
			return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, r := newService(t), newRegistry(t)
			image := push(t, r, "busy", "1", i)
			var mu sync.Mutex
			var until time.Time
			r.Wrap(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					if until.IsZero() {
						until = time.Now().Add(time.Second)
					}
					if strings.Contains(req.URL.Path, c.part) && time.Now().Before(until) {
						w.Header().Set("Retry-After", c.after())
						w.WriteHeader(c.status)
						return
					}
					next.ServeHTTP(w, req)
				})
			})
			mustPull(t, s, image)
			if n := len(r.Requests(c.part)); n < 2 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestResume cuts every connection after a while: the next one goes on where the
// last one ended.
func TestResume(t *testing.T) {
	content := make([]byte, 4<<20)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	l := imagetest.NewLayer(imagetest.Tar(imagetest.File("f", string(content), 0o644)), imagetest.Plain)
	for _, ranges := range []bool{true, false} {
		s, r := newService(t), newRegistry(t)
		name := push(t, r, "cut", "1", imagetest.New(l))
		var served, cuts atomic.Int64
		r.Wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if !strings.Contains(req.URL.Path, l.Descriptor.Digest.Encoded()) {
					next.ServeHTTP(w, req)
					return
				}
				if !ranges {
					req.Header.Del("Range")
				}
				most := 1 << 20
				if !ranges {
					most = 1<<20 + int(cuts.Load())<<20
				}
				cuts.Add(1)
				next.ServeHTTP(&cutWriter{ResponseWriter: w, left: most, served: &served}, req)
			})
		})
		if _, err := pullImage(s, name); err != nil {
			t.Errorf("ranges %v: %v", ranges, err)
		}
		if ranges && served.Load() > int64(len(l.Blob))+1<<20 {
			t.Errorf("%d bytes served for a blob of %d", served.Load(), len(l.Blob))
		}
		if cuts.Load() < 4 {
			t.Errorf("%d connections", cuts.Load())
		}
	}
}

// cutWriter breaks the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left   int
	served *atomic.Int64
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	c.served.Add(int64(n))
	if err == nil && n < len(p) {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func TestFullDisk(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, r := newService(t, func(o *Options) { o.Root = filepath.Join(dir, "root") }), newRegistry(t)
	fits := mustPull(t, s, push(t, r, "fits", "1", small("fits")))
	many := make([]imagetest.Entry, 0, 3000)
	for i := range cap(many) {
		many = append(many, imagetest.File(fmt.Sprint("f", i), strings.Repeat("y", 3000), 0o644))
	}
	for name, i := range map[string]*imagetest.Image{
		"one large file":   imagetest.New(layerOf(imagetest.File("big", strings.Repeat("x", 8<<20), 0o644))),
		"many small files": imagetest.New(layerOf(many...)),
	} {
		image := push(t, r, strings.ReplaceAll(name, " ", "-"), "1", i)
		_, err := pullImage(s, image)
		if !errors.Is(err, errdefs.ErrResourceExhausted) {
			t.Errorf("%s: %v", name, err)
		}
		if list, err := os.ReadDir(filepath.Join(s.opts.Root, "ingest")); err != nil || len(list) != 0 {
			t.Errorf("left: %v, %v", list, err)
		}
	}
	if n := len(s.store.Layers()); n != 1 || status(t, s, fits) == nil {
		t.Errorf("%d layers, image %v", n, status(t, s, fits))
	}
	// A full disk does not keep one from making room.
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	for block := make([]byte, 4096); ; {
		if _, err := fill.Write(block); err != nil {
			break
		}
	}
	if err := s.MountRootfs(bg, "c1", fits, filepath.Join(t.TempDir(), "m"), "", ""); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("mount on a full disk: %v", err)
	}
	if err := s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: fits}); err != nil {
		t.Error(err)
	}
	expectEmpty(t, s)
}

// TestHostileLayers pulls the whole corpus, as a stranger's registry would serve
// it.
func TestHostileLayers(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	canary := t.TempDir()
	if err := os.WriteFile(filepath.Join(canary, "file"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for n, h := range imagetest.HostileLayers(canary) {
		name := push(t, r, "hostile", fmt.Sprint(n), imagetest.New(imagetest.NewLayer(h.Archive, imagetest.Gzip)))
		id, err := pullImage(s, name)
		if h.Refused && (!errors.Is(err, layer.ErrHostile) || !errors.Is(err, errdefs.ErrInvalidArgument)) {
			t.Errorf("%s: %v", h.Name, err)
		}
		if !h.Refused {
			if err != nil {
				t.Errorf("%s: %v", h.Name, err)
				continue
			}
			mount(t, s, fmt.Sprint("c", n), id)
			err := errors.Join(s.RemoveRootfs(bg, fmt.Sprint("c", n)), s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: id}))
			if err != nil {
				t.Errorf("%s: %v", h.Name, err)
			}
		}
		if got := read(t, canary, "file"); got != "untouched" {
			t.Fatalf("%s: the file outside holds %q", h.Name, got)
		}
	}
	expectEmpty(t, s)
}
