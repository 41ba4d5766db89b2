package imagetest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types, which differ from the OCI's in name only.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Image is an image for one platform. Its documents are made when it is asked
// for them, so that a test can change what it is made of.
type Image struct {
	Layers      []Layer
	Config      ocispec.Image
	Annotations map[string]string
	Docker      bool // Docker's media types; layers must be gzip
}

// New makes an image of layers for this machine's platform.
func New(layers ...Layer) *Image {
	created := Epoch
	return &Image{Layers: layers, Config: ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
	}}
}

// ConfigBlob is the configuration document.
func (i *Image) ConfigBlob() []byte {
	c := i.Config
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range i.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
	}
	return encode(c)
}

// ID is the image's ID.
func (i *Image) ID() string { return digest.FromBytes(i.ConfigBlob()).String() }

// Manifest is the manifest document and its media type.
func (i *Image) Manifest() (content []byte, mediaType string) {
	config := i.ConfigBlob()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    []ocispec.Descriptor{}, Annotations: i.Annotations,
	}
	for _, l := range i.Layers {
		m.Layers = append(m.Layers, l.Descriptor)
	}
	if i.Docker {
		m.MediaType, m.Config.MediaType = dockerManifest, dockerConfig
		for n := range m.Layers {
			m.Layers[n].MediaType = dockerLayer
		}
	}
	return encode(m), m.MediaType
}

// Digest is that of the manifest.
func (i *Image) Digest() digest.Digest {
	content, _ := i.Manifest()
	return digest.FromBytes(content)
}

// Index is an index of images for several platforms.
type Index struct {
	Images []*Image
	Docker bool
}

// Manifest is the index document and its media type.
func (x *Index) Manifest() (content []byte, mediaType string) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	if x.Docker {
		index.MediaType = dockerList
	}
	for _, i := range x.Images {
		content, mediaType := i.Manifest()
		platform := i.Config.Platform
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content)), Platform: &platform,
		})
	}
	return encode(index), index.MediaType
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// busyboxPath is where Debian's busybox-static is.
const busyboxPath = "/bin/busybox"

// Busybox makes an image with the machine's static busybox, all its applets, the
// usual directories, and the users root, nobody and app (1000).
func Busybox() (*Image, error) {
	program, err := os.ReadFile(busyboxPath)
	if err != nil {
		return nil, fmt.Errorf("read busybox (Debian package busybox-static): %w", err)
	}
	list, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	entries := []Entry{
		Dir(".", 0o755), Dir("bin", 0o755), Dir("etc", 0o755), Dir("tmp", 0o1777), Dir("root", 0o700),
		Dir("home", 0o755), Dir("home/app", 0o755).Owned(1000, 1000), Dir("var", 0o755), Dir("usr", 0o755), Dir("usr/bin", 0o755),
		Dir("proc", 0o555), Dir("sys", 0o555), Dir("dev", 0o755),
		File("bin/busybox", string(program), 0o755),
		File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\n", 0o644),
		File("etc/group", "root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n", 0o644),
		Symlink("usr/bin/env", "../../bin/busybox"),
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			entries = append(entries, Hardlink("bin/"+applet, "bin/busybox"))
		}
	}
	i := New(NewLayer(Tar(entries...), Gzip))
	i.Config.Config = ocispec.ImageConfig{Env: []string{"PATH=/bin:/usr/bin"}, Cmd: []string{"sh"}}
	return i, nil
}
