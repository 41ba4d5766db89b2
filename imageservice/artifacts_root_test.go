package imageservice

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const tarGzip = "application/vnd.oci.image.layer.v1.tar+gzip"

// modelArtifact has files of all kinds.
func modelArtifact() *imagetest.Artifact {
	return &imagetest.Artifact{Type: "application/vnd.test.model", Files: []imagetest.ArtifactFile{
		{Title: "model/weights.bin", MediaType: "application/octet-stream", Blob: []byte("the weights")},
		{Title: "model/card.md", MediaType: "text/markdown", Blob: []byte("the card")},
		{MediaType: "application/json", Blob: []byte(`{"untitled":true}`)},
		{MediaType: tarGzip, Blob: layerOf(imagetest.Dir("packed", 0o711), imagetest.File("packed/inner", "from an archive", 0o600)).Blob},
		{Title: "dir", MediaType: tarGzip, Blob: layerOf(imagetest.File("dir/a", "a directory's", 0o644)).Blob,
			Annotations: map[string]string{"io.deis.oras.content.unpack": "true"}},
		{Title: "plain.txt", MediaType: "application/vnd.oci.image.layer.v1.tar", Blob: []byte("called an archive by its tool")},
	}}
}

func mustPushArtifact(t *testing.T, r *imagetest.Registry, tag string, a *imagetest.Artifact) string {
	t.Helper()
	name, err := r.PushArtifact("artifact", tag, a)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestArtifacts(t *testing.T) {
	base := t.TempDir()
	at := func(o *Options) { o.Root = filepath.Join(base, "root") }
	s, r := newService(t, at), newRegistry(t)
	a := modelArtifact()
	name := mustPushArtifact(t, r, "v1", a)
	id := mustPull(t, s, name)
	if id != a.Digest().String() {
		t.Errorf("ID %s, want the manifest's digest %s", id, a.Digest())
	}
	root := mustMountImage(t, s, "c1", name)
	untitled := digest.FromBytes(a.Files[2].Blob)
	for file, want := range map[string]string{
		"model/weights.bin": "the weights", "model/card.md": "the card", "sha256-" + untitled.Encoded(): `{"untitled":true}`,
		"packed/inner": "from an archive", "dir/a": "a directory's", "plain.txt": "called an archive by its tool",
	} {
		if got := read(t, root, file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	var st unix.Stat_t
	for file, mode := range map[string]uint32{".": 0o755, "model": 0o755, "model/card.md": 0o644, "packed": 0o711, "packed/inner": 0o600} {
		if err := unix.Lstat(filepath.Join(root, file), &st); err != nil || st.Mode&0o7777 != mode {
			t.Errorf("%s has mode %o, want %o: %v", file, st.Mode&0o7777, mode, err)
		}
	}
	// The next start of the daemon knows it.
	s.Close()
	s = newService(t, at)
	resp, err := s.ImageStatus(bg, &runtimeapi.ImageSpec{Image: name}, true)
	if err != nil || resp.GetImage().GetId() != id || resp.GetImage().GetSize() == 0 || !strings.Contains(resp.Info["info"], a.Type) {
		t.Errorf("status %v, %v", resp, err)
	}
	if list, err := s.ListImages(bg, nil); err != nil || len(list) != 1 || list[0].RepoTags[0] != name || list[0].RepoDigests[0] != r.Host+"/artifact@"+id {
		t.Errorf("list %v, %v", list, err)
	}
	if err := s.RemoveRootfs(bg, "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: id}); err != nil {
		t.Fatal(err)
	}
	expectEmpty(t, s)
}

func TestArtifactsDoNotRun(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, mustPushArtifact(t, r, "v1", modelArtifact()))
	if _, _, err := s.Image(bg, id); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "application/vnd.test.model") {
		t.Errorf("as the image of a container: %v", err)
	}
	if err := s.MountRootfs(bg, "c1", id, t.TempDir(), "", ""); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("as a root file system: %v", err)
	}
}

// Artifacts that have the same, empty configuration are not one image.
func TestArtifactsAreToldApart(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	file := func(title string) *imagetest.Artifact {
		return &imagetest.Artifact{Type: "x/y", Files: []imagetest.ArtifactFile{{Title: title, MediaType: "text/plain", Blob: []byte("same")}}}
	}
	one, two := mustPull(t, s, mustPushArtifact(t, r, "1", file("one"))), mustPull(t, s, mustPushArtifact(t, r, "2", file("two")))
	if one == two || read(t, mustMountImage(t, s, "c", one), "one") != "same" || read(t, mustMountImage(t, s, "c", two), "two") != "same" {
		t.Errorf("%s and %s", one, two)
	}
	// One without a type has that of its configuration; one without content is empty.
	helm := mustPull(t, s, mustPushArtifact(t, r, "3", &imagetest.Artifact{Config: "application/vnd.cncf.helm.config.v1+json",
		Files: []imagetest.ArtifactFile{{MediaType: "application/vnd.oci.empty.v1+json", Blob: []byte("{}")}}}))
	if list, err := os.ReadDir(mustMountImage(t, s, "c", helm)); err != nil || len(list) != 0 {
		t.Errorf("an artifact without content: %v, %v", list, err)
	}
}

func TestBadArtifacts(t *testing.T) {
	for name, title := range map[string]string{
		"out of the root": "../evil", "absolute": "/etc/passwd", "the root": ".", "deep out": "a/../../b", "long": strings.Repeat("x", 300),
	} {
		s, r := newService(t), newRegistry(t)
		_, err := pullImage(s, mustPushArtifact(t, r, "bad", &imagetest.Artifact{Type: "x/y", Files: []imagetest.ArtifactFile{{Title: title, MediaType: "text/plain", Blob: []byte("x")}}}))
		if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "title") {
			t.Errorf("%s: %v", name, err)
		}
		expectEmpty(t, s)
	}
	s, r := newService(t), newRegistry(t)
	hostile := mustPushArtifact(t, r, "hostile", &imagetest.Artifact{Type: "x/y", Files: []imagetest.ArtifactFile{{MediaType: tarGzip, Blob: layerOf(imagetest.File("../evil", "x", 0o644)).Blob}}})
	if _, err := pullImage(s, hostile); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "out of the root") {
		t.Errorf("a hostile archive: %v", err)
	}
	a := modelArtifact()
	name := mustPushArtifact(t, r, "wrong", a)
	for what, answer := range map[string][]byte{"wrong": []byte("the weighty"), "short": []byte("the"), "long": []byte("the weights and more")} {
		r.Wrap(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.HasSuffix(req.URL.Path, digest.FromBytes(a.Files[0].Blob).String()) {
					chunked(answer)(w, req)
					return
				}
				next.ServeHTTP(w, req)
			})
		})
		if _, err := pullImage(s, name); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("a blob that is %s: %v", what, err)
		}
		expectEmpty(t, s)
	}
}
