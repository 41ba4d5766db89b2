package imagetest

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

func TestServedAsPushed(t *testing.T) {
	r, err := Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	i, err := Busybox()
	if err != nil {
		t.Fatal(err)
	}
	name, err := r.Push("a/b", "t", i)
	if err != nil || name != r.Host+"/a/b:t" {
		t.Fatal(name, err)
	}
	content, mediaType := i.Manifest()
	resp, err := http.Get("http://" + r.Host + "/v2/a/b/manifests/t")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, content) || resp.Header.Get("Content-Type") != mediaType {
		t.Errorf("%s, %v", got, err)
	}
	if len(r.Requests("/manifests/t")) != 1 || len(r.Requests("/blobs/")) != 0 {
		t.Errorf("%q", r.Requests(""))
	}
}

// Images must be the same every time, or nothing would be cached.
func TestReproducible(t *testing.T) {
	a, err := Busybox()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Busybox()
	if err != nil || a.Digest() != b.Digest() || a.ID() != b.ID() {
		t.Errorf("%s and %s, %v", a.Digest(), b.Digest(), err)
	}
}

func TestLayerDigests(t *testing.T) {
	archive := Tar(File("f", "x", 0o644))
	l := NewLayer(archive, Gzip)
	if l.DiffID != digest.FromBytes(archive) || l.Descriptor.Digest != digest.FromBytes(l.Blob) || l.Descriptor.Size != int64(len(l.Blob)) {
		t.Errorf("%+v", l.Descriptor)
	}
	z, err := gzip.NewReader(bytes.NewReader(l.Blob))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, archive) {
		t.Error(err)
	}
}
