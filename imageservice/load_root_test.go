package imageservice

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/archive"
	"github.com/berth-cri/berth/imageservice/content"
	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/layer"
)

// files are those of an archive that a test puts together.
type files map[string][]byte

func (f files) tar() []byte {
	var entries []imagetest.Entry
	for _, name := range slices.Sorted(maps.Keys(f)) {
		entries = append(entries, imagetest.File(name, string(f[name]), 0o644))
	}
	return imagetest.Tar(entries...)
}

func (f files) blob(raw []byte) digest.Digest {
	d := digest.FromBytes(raw)
	f["blobs/sha256/"+d.Encoded()] = raw
	return d
}

// layout is an OCI layout with images under names.
func layout(images map[string]*imagetest.Image) files {
	f := files{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	var tops []ocispec.Descriptor
	for _, name := range slices.Sorted(maps.Keys(images)) {
		raw, mediaType := images[name].Manifest()
		f.blob(images[name].ConfigBlob())
		for _, l := range images[name].Layers {
			f.blob(l.Blob)
		}
		tops = append(tops, ocispec.Descriptor{MediaType: mediaType, Digest: f.blob(raw), Size: int64(len(raw)), Annotations: map[string]string{"org.opencontainers.image.ref.name": name}})
	}
	f.index(tops...)
	return f
}

func (f files) index(tops ...ocispec.Descriptor) {
	raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: tops})
	if err != nil {
		panic(err)
	}
	f["index.json"] = raw
}

func docker(tag string, i *imagetest.Image) files {
	f := files{"c.json": i.ConfigBlob()}
	entry := map[string]any{"Config": "c.json", "RepoTags": []string{tag}}
	var names []string
	for _, l := range i.Layers {
		name := l.DiffID.Encoded() + "/layer.tar"
		f[name] = l.Blob
		names = append(names, name)
	}
	entry["Layers"] = names
	raw, err := json.Marshal([]any{entry})
	if err != nil {
		panic(err)
	}
	f["manifest.json"] = raw
	return f
}

func load(s *Service, raw []byte) ([]Loaded, error) {
	return s.Load(context.Background(), bytes.NewReader(raw), LoadOptions{})
}

// wantNothing fails if anything of a load was kept.
func wantNothing(t *testing.T, s *Service) {
	t.Helper()
	wantBlobs(t, s)
	if l, i := s.store.Layers(), s.store.Images(); len(l)+len(i) != 0 {
		t.Errorf("kept: layers %v, images %v", l, i)
	}
	left, err := os.ReadDir(filepath.Join(s.store.Root(), "ingest"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestSavedImagesLoadWithTheirDigests(t *testing.T) {
	from, r := newService(t), newRegistry(t)
	a, b := imagetest.New(someLayer("shared"), someLayer("own")), imagetest.New(someLayer("shared"))
	name, err := r.PushIndex("test/a", "1", &imagetest.Index{Images: []*imagetest.Image{a}})
	if err != nil {
		t.Fatal(err)
	}
	mustPull(t, from, name)
	other := push(t, r, "test/b", "2", b)
	mustPull(t, from, other)
	var saved, again bytes.Buffer
	if err := from.Save(context.Background(), &saved, []string{name, other}, false); err != nil {
		t.Fatal(err)
	}
	to := newService(t)
	loaded, err := load(to, saved.Bytes())
	if err != nil || len(loaded) != 2 || loaded[0].ID != a.ID() || loaded[0].Names[0] != mustRef(t, name) {
		t.Fatalf("%+v, %v", loaded, err)
	}
	want := blobSet(t, from)
	if got := blobSet(t, to); !reflect.DeepEqual(got, want) {
		t.Errorf("blobs %v, want %v", got, want)
	}
	if err := to.Save(context.Background(), &again, []string{name, other}, false); err != nil || !bytes.Equal(saved.Bytes(), again.Bytes()) {
		t.Errorf("saved again it differs: %v", err)
	}
	for _, n := range []string{name, other} {
		if err := to.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: n}); err != nil {
			t.Fatal(err)
		}
	}
	wantNothing(t, to)
}

func TestDockerArchives(t *testing.T) {
	from, to, r := newService(t), newService(t), newRegistry(t)
	image := imagetest.New(someLayer("low"), someLayer("high"))
	name := push(t, r, "test/a", "1", image)
	mustPull(t, from, name)
	var saved bytes.Buffer
	if err := from.Save(context.Background(), &saved, []string{name}, true); err != nil {
		t.Fatal(err)
	}
	loaded, err := load(to, saved.Bytes())
	if err != nil || len(loaded) != 1 || loaded[0].ID != image.ID() || loaded[0].Names[0] != mustRef(t, name) {
		t.Fatalf("%+v, %v", loaded, err)
	}
	// With links between layers, as docker save once had them, and in gzip.
	f := docker("box:7", image)
	raw := f["manifest.json"]
	f["manifest.json"] = bytes.ReplaceAll(raw, []byte(image.Layers[1].DiffID.Encoded()+"/layer.tar"), []byte("l/layer.tar"))
	linked := imagetest.Tar(append(entriesOf(t, f), imagetest.Symlink("l/layer.tar", "../"+image.Layers[1].DiffID.Encoded()+"/layer.tar"))...)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(linked); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	again := newService(t)
	loaded, err = load(again, zipped.Bytes())
	if err != nil || loaded[0].Names[0] != "docker.io/library/box:7" {
		t.Fatalf("%+v, %v", loaded, err)
	}
}

func entriesOf(t *testing.T, f files) []imagetest.Entry {
	t.Helper()
	var entries []imagetest.Entry
	for name, raw := range f {
		entries = append(entries, imagetest.File(name, string(raw), 0o644))
	}
	return entries
}

func TestImagesWithoutRepository(t *testing.T) {
	s := newService(t)
	image := imagetest.New(someLayer("x"))
	raw := layout(map[string]*imagetest.Image{"v1": image}).tar()
	loaded, err := load(s, raw)
	if err != nil || len(loaded) != 1 || len(loaded[0].Names) != 0 {
		t.Fatalf("%+v, %v", loaded, err)
	}
	loaded, err = s.Load(context.Background(), bytes.NewReader(raw), LoadOptions{Repository: "r.example/app"})
	if err != nil || !slices.Contains(loaded[0].Names, "r.example/app:v1") {
		t.Fatalf("%+v, %v", loaded, err)
	}
}

func TestDiscardedImageCannotLeave(t *testing.T) {
	s, r := newService(t, func(o *Options) { o.DiscardBlobs = true }), newRegistry(t)
	name := push(t, r, "test/a", "1", imagetest.New(someLayer("x")))
	mustPull(t, s, name)
	var out bytes.Buffer
	err := s.Save(context.Background(), &out, []string{name}, false)
	if !errors.Is(err, ErrDiscarded) || !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "images.keepBlobs") || out.Len() != 0 {
		t.Errorf("%v, %d bytes", err, out.Len())
	}
}

// TestHostileLayersInArchives runs the corpus that all ways of unpacking must withstand,
// in both kinds of archives.
func TestHostileLayersInArchives(t *testing.T) {
	s := newService(t)
	canary := filepath.Join(t.TempDir(), "canary")
	if err := errors.Join(os.Mkdir(canary, 0o755), os.WriteFile(filepath.Join(canary, "file"), []byte("untouched"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, h := range imagetest.HostileLayers(canary) {
		for kind, raw := range map[string][]byte{
			"layout": layout(map[string]*imagetest.Image{"r.example/x:1": imagetest.New(imagetest.NewLayer(h.Archive, imagetest.Gzip))}).tar(),
			"docker": docker("r.example/x:1", imagetest.New(imagetest.NewLayer(h.Archive, imagetest.Plain))).tar(),
		} {
			loaded, err := load(s, raw)
			switch {
			case h.Refused && !errors.Is(err, layer.ErrHostile):
				t.Errorf("%s in %s: %v", h.Name, kind, err)
			case h.Refused:
				wantNothing(t, s)
			case err != nil:
				t.Errorf("%s in %s: %v", h.Name, kind, err)
			default:
				if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: loaded[0].ID}); err != nil {
					t.Error(err)
				}
			}
		}
		if got, err := os.ReadFile(filepath.Join(canary, "file")); err != nil || string(got) != "untouched" {
			t.Fatalf("%s: reached the outside: %q, %v", h.Name, got, err)
		}
	}
	wantNothing(t, s)
}

func TestHostileArchives(t *testing.T) {
	s := newService(t)
	image := imagetest.New(someLayer("x"))
	good := func() files { return layout(map[string]*imagetest.Image{"r.example/x:1": image}) }
	change := func(f files, do func(files)) []byte { do(f); return f.tar() }
	blob := func(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }
	layerBlob := blob(image.Layers[0].Descriptor.Digest)
	without := good()
	delete(without, layerBlob)
	noConfig := good()
	delete(noConfig, blob(digest.Digest(image.ID())))
	dup := append(entriesOf(t, good()), imagetest.File("./index.json", "{}", 0o644))
	liar := imagetest.New(someLayer("x"))
	liar.Layers[0].DiffID = digest.FromString("other")
	both, _ := image.Manifest()
	confused := append(bytes.TrimSuffix(both, []byte("}")), []byte(`,"manifests":[]}`)...)
	for name, c := range map[string]struct {
		raw  []byte
		kind error
		text string
	}{
		"empty":                  {nil, archive.ErrInvalid, "nothing to read"},
		"not tar":                {bytes.Repeat([]byte("no archive at all\n"), 200), archive.ErrInvalid, ""},
		"gzip of nothing":        {[]byte{0x1f, 0x8b, 8, 0}, archive.ErrInvalid, ""},
		"cut":                    {good().tar()[:1500], archive.ErrInvalid, ""},
		"no image":               {files{"hello": []byte("x")}.tar(), archive.ErrInvalid, "neither index.json nor manifest.json"},
		"index is not JSON":      {change(good(), func(f files) { f["index.json"] = []byte("x") }), errdefs.ErrInvalidArgument, "index.json"},
		"layout of the future":   {change(good(), func(f files) { f["oci-layout"] = []byte(`{"imageLayoutVersion":"9"}`) }), archive.ErrInvalid, "oci-layout"},
		"layout without version": {change(good(), func(f files) { delete(f, "oci-layout") }), archive.ErrInvalid, "oci-layout"},
		"huge index":             {change(good(), func(f files) { f["index.json"] = bytes.Repeat([]byte(" "), 5<<20) }), archive.ErrInvalid, "index.json"},
		"blob is not its digest": {change(good(), func(f files) { f[layerBlob] = []byte("other") }), content.ErrCorrupt, "has digest"},
		"layer is missing":       {without.tar(), archive.ErrInvalid, "is not in the archive"},
		"config is missing":      {noConfig.tar(), archive.ErrInvalid, "is not in the archive"},
		"unknown algorithm":      {change(good(), func(f files) { f["blobs/md5/d41d8cd98f00b204e9800998ecf8427e"] = nil }), archive.ErrInvalid, "unknown algorithm"},
		"DiffID is another":      {layout(map[string]*imagetest.Image{"r.example/x:1": liar}).tar(), layer.ErrDiffID, ""},
		"duplicate entry":        {imagetest.Tar(dup...), archive.ErrInvalid, "twice"},
		"name leads out":         {change(good(), func(f files) { f["../evil"] = []byte("x") }), archive.ErrInvalid, "out of the archive"},
		"blob is a link":         {imagetest.Tar(append(entriesOf(t, without), imagetest.Symlink(layerBlob, "../../etc/passwd"))...), archive.ErrInvalid, "a link"},
		"link leads out":         {imagetest.Tar(append(entriesOf(t, good()), imagetest.Symlink("x", "/etc/passwd"))...), archive.ErrInvalid, "out of the archive"},
		"device":                 {imagetest.Tar(append(entriesOf(t, good()), imagetest.Device("x", tar.TypeBlock, 8, 0))...), archive.ErrInvalid, "type"},
		"manifest and index":     {change(files{"oci-layout": good()["oci-layout"]}, func(f files) { f.index(ocispec.Descriptor{Digest: f.blob(confused), Size: int64(len(confused))}) }), errdefs.ErrInvalidArgument, "either a manifest or an index"},
		"name does not parse":    {layout(map[string]*imagetest.Image{"r.example/X:1": image}).tar(), errdefs.ErrInvalidArgument, "lower case"},
		"digest that is a path": {change(good(), func(f files) {
			f["index.json"] = []byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}`)
		}), errdefs.ErrInvalidArgument, "digest"},
		"docker: outside":       {files{"manifest.json": []byte(`[{"Config":"../../../etc/passwd","Layers":[]}]`)}.tar(), archive.ErrInvalid, "outside"},
		"docker: absolute":      {files{"manifest.json": []byte(`[{"Config":"/etc/passwd","Layers":[]}]`)}.tar(), archive.ErrInvalid, "outside"},
		"docker: layer is not":  {change(docker("x:1", image), func(f files) { delete(f, image.Layers[0].DiffID.Encoded()+"/layer.tar") }), archive.ErrInvalid, "not in the archive"},
		"docker: fewer layers":  {change(docker("x:1", image), func(f files) { f["manifest.json"] = []byte(`[{"Config":"c.json","Layers":[]}]`) }), errdefs.ErrInvalidArgument, "layers"},
		"docker: loop of links": {imagetest.Tar(imagetest.File("manifest.json", `[{"Config":"a"}]`, 0o644), imagetest.Symlink("a", "b"), imagetest.Symlink("b", "a")), archive.ErrInvalid, "links"},
		"docker: not JSON":      {files{"manifest.json": []byte(`{`)}.tar(), archive.ErrInvalid, "manifest.json"},
	} {
		loaded, err := load(s, c.raw)
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %+v, %v", name, loaded, err)
		}
		wantNothing(t, s)
	}
}

// TestSparseBomb has an archive whose few bytes stand for a petabyte of zeros.
func TestSparseBomb(t *testing.T) {
	s := newService(t)
	for name, raw := range map[string][]byte{
		"sparse file": sparseFile(t),
		"large file":  largeFile(t),
	} {
		_, err := load(s, raw)
		if !errors.Is(err, archive.ErrInvalid) && !errors.Is(err, errdefs.ErrResourceExhausted) {
			t.Errorf("%s: %v", name, err)
		}
		wantNothing(t, s)
	}
}

func sparseFile(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 512, Mode: 0o644, Format: tar.FormatGNU}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 512)); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	raw[156] = 'S'                                // the old GNU form: one piece of 512 bytes
	copy(raw[386:], "00000000000\x0000000001000") // its offset and length
	copy(raw[483:], "77777777777\x00")            // the file's length
	fixChecksum(raw)
	return raw
}

func largeFile(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 1 << 60, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func fixChecksum(header []byte) {
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header[:512] {
		sum += int(c)
	}
	copy(header[148:], []byte(string([]byte{'0', byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})))
}

func TestLoadEndsWithItsCaller(t *testing.T) {
	s := newService(t)
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := s.Load(ctx, r, LoadOptions{})
		done <- err
	}()
	raw := layout(map[string]*imagetest.Image{"r.example/x:1": imagetest.New(someLayer("x"))}).tar()
	if _, err := w.Write(raw[:2048]); err != nil {
		t.Fatal(err)
	}
	cancel()
	w.CloseWithError(context.Canceled)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wantNothing(t, s)
}
