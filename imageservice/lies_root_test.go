package imageservice

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A registry that lied once is believed when it tells the truth: nothing that it said
// before is in the way. The blob is large enough for its beginning to be kept.
func TestTruthAfterLies(t *testing.T) {
	large := bigLayer(6 << 20)
	wrong := bytes.Clone(large.Blob)
	wrong[len(wrong)/2] ^= 1
	half := large.Blob[:len(large.Blob)/2]
	for name, lie := range map[string]http.HandlerFunc{
		"wrong digest":          fixed(wrong),
		"wrong length":          fixed(large.Blob, "and more"),
		"shorter":               fixed(half),
		"without a length, cut": chunked(half),
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(large.Blob)))
			_, _ = w.Write(half)
			panic(http.ErrAbortHandler)
		},
		"another blob":     fixed(bytes.Repeat([]byte{0}, len(large.Blob))),
		"a page of HTML":   html,
		"redirects":        func(w http.ResponseWriter, req *http.Request) { http.Redirect(w, req, req.URL.Path, http.StatusFound) },
		"endless":          endless,
		"a server's error": code(http.StatusInternalServerError),
		"a wrong range": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 7-9/10")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(half)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := newService(t), newRegistry(t)
			image := push(t, r, "app", "1", imagetest.New(layerOf(imagetest.File("f", "x", 0o644)), large))
			r.Wrap(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if strings.Contains(req.URL.Path, large.Descriptor.Digest.Encoded()) {
						lie(w, req)
						return
					}
					next.ServeHTTP(w, req)
				})
			})
			if _, err := pullImage(s, image); err == nil {
				t.Fatal("the lie was believed")
			}
			expectEmpty(t, s)
			r.Wrap(nil)
			id := mustPull(t, s, image)
			mount(t, s, "c", id)
			if err := errors.Join(s.RemoveRootfs(bg, "c"), s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: id})); err != nil {
				t.Error(err)
			}
			expectEmpty(t, s)
		})
	}
}

// A blob of some kilobytes that inflates to more than any honest one can.
func TestBombFromARegistry(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	zeros := imagetest.Tar(imagetest.File("zeros", strings.Repeat("\x00", 300<<20), 0o644))
	name := push(t, r, "bomb", "1", imagetest.New(imagetest.NewLayer(zeros, imagetest.Zstd)))
	if _, err := pullImage(s, name); !errors.Is(err, layer.ErrHostile) || !strings.Contains(err.Error(), "inflates") {
		t.Errorf("%v", err)
	}
	expectEmpty(t, s)
}

// An image can have ten thousand names, and lists, statuses and restarts with it; one
// more is refused by name.
func TestTenThousandNames(t *testing.T) {
	s := newService(t)
	config := imagetest.New().ConfigBlob()
	manifest, mediaType := imagetest.New().Manifest()
	img := store.Image{ID: digest.FromBytes(config), ManifestDigest: digest.FromBytes(manifest), MediaType: mediaType}
	refs := make([]string, 10_000)
	for i := range refs {
		refs[i] = fmt.Sprintf("r.example/app:t%d", i)
	}
	if err := s.store.PutImage(img, refs, config, manifest); err != nil {
		t.Fatal(err)
	}
	if err := s.store.PutImage(img, []string{"r.example/app:more"}, config, manifest); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("one more: %v", err)
	}
	s.Close()
	again, err := New(s.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got := status(t, again, refs[9_999]); got == nil || len(got.RepoTags) != len(refs) {
		t.Errorf("%d names", len(got.GetRepoTags()))
	}
	if err := again.RemoveImage(bg, &runtimeapi.ImageSpec{Image: refs[5]}); err != nil {
		t.Error(err)
	}
	expectEmpty(t, again)
}
