// Package imagetest makes images in memory, with what a machine that has
// busybox-static offers, and serves them from a registry on the loopback
// interface. It is for tests, demonstrations and measurements without a network.
package imagetest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Epoch is the time of all that this package makes: images come out the same
// every time.
var Epoch = time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)

// Entry is one entry of a layer's archive. The header's size is that of Body
// unless it is set, and its time Epoch unless it is set.
type Entry struct {
	tar.Header
	Body []byte
}

// Dir describes a directory.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

// File describes a regular file.
func File(name, body string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, Body: []byte(body)}
}

// Symlink describes a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Hardlink describes another name of a file.
func Hardlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

// Device describes a device node.
func Device(name string, kind byte, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o660, Devmajor: major, Devminor: minor}}
}

// Owned is e with another owner.
func (e Entry) Owned(uid, gid int) Entry {
	e.Uid, e.Gid = uid, gid
	return e
}

// Xattr is e with one more extended attribute.
func (e Entry) Xattr(name, value string) Entry {
	records := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range e.PAXRecords {
		records[k] = v
	}
	e.PAXRecords = records
	return e
}

// At is e with another modification time.
func (e Entry) At(t time.Time) Entry {
	e.ModTime = t
	return e
}

// Tar makes an archive of entries. It panics when they cannot be encoded, which
// is a mistake of the caller.
func Tar(entries ...Entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		hdr := e.Header
		if hdr.Size == 0 {
			hdr.Size = int64(len(e.Body))
		}
		if hdr.ModTime.IsZero() {
			hdr.ModTime = Epoch
		}
		if err := w.WriteHeader(&hdr); err != nil {
			panic(fmt.Sprintf("entry %q: %v", e.Name, err))
		}
		if _, err := w.Write(e.Body); err != nil {
			panic(fmt.Sprintf("entry %q: %v", e.Name, err))
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// Compression is how a layer's blob is compressed.
type Compression string

// The compressions that images have.
const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// Compress compresses b.
func Compress(b []byte, c Compression) []byte {
	var buf bytes.Buffer
	switch c {
	case Plain:
		return b
	case Gzip:
		w := gzip.NewWriter(&buf)
		must(w.Write(b))
		must(0, w.Close())
	case Zstd:
		w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
		must(0, err)
		must(w.Write(b))
		must(0, w.Close())
	}
	return buf.Bytes()
}

func must(_ int, err error) {
	if err != nil {
		panic(err)
	}
}

// Layer is a layer with its blob.
type Layer struct {
	Blob       []byte
	Descriptor ocispec.Descriptor
	DiffID     digest.Digest
}

// NewLayer makes a layer of an archive.
func NewLayer(archive []byte, c Compression) Layer {
	l := Layer{Blob: Compress(archive, c), DiffID: digest.FromBytes(archive)}
	mediaType := ocispec.MediaTypeImageLayer
	if c != Plain {
		mediaType += "+" + string(c)
	}
	l.Descriptor = ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(l.Blob), Size: int64(len(l.Blob))}
	return l
}
