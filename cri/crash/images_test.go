package crash

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// image is one that the registry serves.
type image struct{ name, id string }

// trees are what all layers hold, by DiffID; blobs what each image came as, by ID.
var (
	trees = map[string]tree{}
	blobs = map[string][]string{}
)

// check is what a container of any image runs: it fails unless every file is there
// with the content that the image was made with.
var check = []string{"/bin/sh", "-c", "cd / && sha256sum -c -s /sums && test ! -e /gone && test ! -e /hidden/below && test -e /hidden/above"}

// makeImages makes images that share layers: of one, of two, and a large one, of
// which an interrupted pull keeps the beginning.
func makeImages(r *imagetest.Registry) ([]image, error) {
	box, err := imagetest.Busybox()
	if err != nil {
		return nil, err
	}
	base := part{layer: box.Layers[0]}
	if base.archive, err = inflate(base.layer.Blob); err != nil {
		return nil, err
	}
	trees[base.layer.DiffID.String()] = treeOfArchive(base.archive)
	small, large := filesLayer("small", 120, 300), filesLayer("large", 3, 2<<20)
	var made []image
	build := func(name string, parts ...part) *imagetest.Image {
		img := imagetest.New(base.layer)
		for _, p := range append(parts, topLayer(name, parts)) {
			img.Layers = append(img.Layers, p.layer)
		}
		img.Config.Config = box.Config.Config
		blobs[img.ID()] = []string{img.ID(), img.Digest().String()}
		for _, l := range img.Layers {
			blobs[img.ID()] = append(blobs[img.ID()], l.Descriptor.Digest.String())
		}
		return img
	}
	push := func(name, tag string, parts ...part) (*imagetest.Image, error) {
		img := build(name, parts...)
		full, err := r.Push("crash/"+name, tag, img)
		made = append(made, image{full, img.ID()})
		return img, err
	}
	for name, parts := range map[string][]part{
		"a": {small}, "b": {small, large}, "c": {large}, "d": {small, filesLayer("d", 40, 9000)},
	} {
		img, err := push(name, "1", parts...)
		if err != nil {
			return nil, err
		}
		content, mediaType := img.Manifest()
		for i := range 50 {
			tag := fmt.Sprint("alias", i)
			alias = append(alias, r.Host+"/crash/"+name+":"+tag)
			if err := r.PutManifest("crash/"+name, tag, mediaType, content); err != nil {
				return nil, err
			}
		}
	}
	stable := made
	var variants []*imagetest.Image
	for _, tag := range []string{"one", "two"} {
		img, err := push("moving", tag, small, filesLayer("moving-"+tag, 10, 100))
		if err != nil {
			return nil, err
		}
		variants = append(variants, img)
	}
	if _, err := push("changed", "1", small); err != nil {
		return nil, err
	}
	changed, changes = r.Host+"/crash/changed:1", archiveOfChanges(small.sums)
	img := build("loaded", small, filesLayer("loaded", 30, 2000))
	loaded = image{"registry.example/crash/loaded:1", img.ID()}
	if archive, err = layout(img, loaded.name); err != nil {
		return nil, err
	}
	bad := filesLayer("bad", 50, 3000).layer
	damaged, err = r.Push("crash/damaged", "1", imagetest.New(base.layer, bad))
	moving = r.Host + "/crash/moving:1"
	serveDamage(r, bad, variants)
	return stable, err
}

// part is a layer and what its files must be.
type part struct {
	layer   imagetest.Layer
	archive []byte
	sums    []string // lines for sha256sum
}

// seal makes the layer, and remembers what it holds.
func (p part) seal(c imagetest.Compression, entries ...imagetest.Entry) part {
	p.archive = imagetest.Tar(entries...)
	p.layer = imagetest.NewLayer(p.archive, c)
	trees[p.layer.DiffID.String()] = treeOfArchive(p.archive)
	return p
}

// filesLayer makes a layer of count files of about size bytes that do not compress,
// with directories, links and attributes.
func filesLayer(name string, count, size int) part {
	random := rand.NewChaCha8(sha256.Sum256([]byte(name)))
	entries := []imagetest.Entry{
		imagetest.Dir("gone", 0o755), imagetest.Dir("hidden", 0o755), imagetest.File("hidden/below", "x", 0o644),
		imagetest.Dir(name, 0o750).Owned(7, 8), imagetest.Symlink(name+"/link", "0/f0"),
	}
	var p part
	for i := range count {
		body := make([]byte, size+i)
		_, _ = random.Read(body)
		file := fmt.Sprintf("%s/%d/f%d", name, i%5, i)
		entries = append(entries, imagetest.File(file, string(body), int64(0o600+i%8)).Owned(i, i+1).Xattr("user.n", file))
		p.sums = append(p.sums, fmt.Sprintf("%x  %s", sha256.Sum256(body), file))
	}
	entries = append(entries, imagetest.Hardlink(name+"/hard", name+"/0/f0"))
	return p.seal(imagetest.Gzip, entries...)
}

// topLayer takes away some of what is below, and has the sums of the rest.
func topLayer(name string, below []part) part {
	var sums []string
	for _, p := range below {
		sums = append(sums, p.sums...)
	}
	return part{}.seal(imagetest.Zstd,
		imagetest.File("sums", strings.Join(sums, "\n")+"\n", 0o644),
		imagetest.File("which", name, 0o644), imagetest.File(".wh.gone", "", 0o644),
		imagetest.Dir("hidden", 0o755), imagetest.File("hidden/.wh..wh..opq", "", 0o644), imagetest.File("hidden/above", "x", 0o644))
}

// damaged is an image of which the registry serves a layer that is not what its
// digest says; moving is a name that leads to one image or another.
var damaged, moving string

// alias are more names of the images.
var alias []string

// loaded is an image that comes from archive and not from a registry.
var (
	loaded  image
	archive []byte
)

// changed is an image, and changes an archive of what containers of it are given; an image
// is made of each, which is called committed.
var (
	changed string
	changes []byte
)

const committed = "registry.example/crash/committed"

// archiveOfChanges has files for an image with those that sums are of.
func archiveOfChanges(sums []string) []byte {
	var entries []imagetest.Entry
	sums = slices.Clone(sums)
	for i := range 5 {
		name, body := fmt.Sprint("change", i), strings.Repeat(fmt.Sprint(i), 20_000)
		entries = append(entries, imagetest.File(name, body, 0o644))
		sums = append(sums, fmt.Sprintf("%x  %s", sha256.Sum256([]byte(body)), name))
	}
	return imagetest.Tar(append(entries, imagetest.File("sums", strings.Join(sums, "\n")+"\n", 0o644))...)
}

// layout is an OCI layout with one image.
func layout(img *imagetest.Image, name string) ([]byte, error) {
	manifest, mediaType := img.Manifest()
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{{
		MediaType: mediaType, Digest: img.Digest(), Size: int64(len(manifest)),
		Annotations: map[string]string{"io.containerd.image.name": name},
	}}})
	entries := []imagetest.Entry{
		imagetest.File(ocispec.ImageLayoutFile, `{"imageLayoutVersion":"1.0.0"}`, 0o644),
		imagetest.File(ocispec.ImageIndexFile, string(index), 0o644),
	}
	blob := func(content []byte) {
		entries = append(entries, imagetest.File("blobs/sha256/"+digest.FromBytes(content).Encoded(), string(content), 0o644))
	}
	blob(manifest)
	blob(img.ConfigBlob())
	for _, l := range img.Layers {
		blob(l.Blob)
	}
	return imagetest.Tar(entries...), err
}

func serveDamage(r *imagetest.Registry, bad imagetest.Layer, variants []*imagetest.Image) {
	wrong := append(bytes.Clone(bad.Blob[:len(bad.Blob)-1]), bad.Blob[len(bad.Blob)-1]^1)
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch {
			case strings.Contains(req.URL.Path, bad.Descriptor.Digest.Encoded()):
				_, _ = w.Write(wrong)
			case strings.HasSuffix(req.URL.Path, "/crash/moving/manifests/1"):
				content, mediaType := variants[rand.IntN(len(variants))].Manifest()
				w.Header().Set("Content-Type", mediaType)
				_, _ = w.Write(content)
			default:
				next.ServeHTTP(w, req)
			}
		})
	})
}

func inflate(blob []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
