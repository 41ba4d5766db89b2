// Package archive reads and writes images as files: OCI layouts, and the archives of
// docker save.
//
// What is read comes from strangers. No name of it ever becomes a path on the disk:
// each file goes to a place of its own in the content store's scratch, where its digest
// is taken, and names are looked up in memory. Links lead to other files of the same
// archive or nowhere.
package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/content"
)

// ErrInvalid marks a file that is not an archive of images, or one that no honest tool
// makes. It comes with errdefs.ErrInvalidArgument.
var ErrInvalid = fmt.Errorf("not an archive of images: %w", errdefs.ErrInvalidArgument)

// Limits of an archive, far above those of any seen.
const (
	maxEntries = 20_000
	maxName    = 4096
	maxLinks   = 8 // from a name to its file
	// maxRatio and ratioFloor are the limits of a compressed archive, like a layer's.
	maxRatio   = 1100
	ratioFloor = 256 << 20
	maxWindow  = 32 << 20
)

const (
	layoutFile     = "oci-layout"
	indexFile      = "index.json"
	dockerFile     = "manifest.json"
	blobsDirectory = "blobs"
)

// Archive holds what was read, until Close.
type Archive struct {
	store *content.Store
	files map[string]*content.Writer // sealed, by their clean names
	links map[string]string          // clean name to the clean name it leads to
	blobs map[digest.Digest]*content.Writer
	// made are documents that docker's archives do not have.
	made map[digest.Digest][]byte
}

// Read reads an archive to its end: tar, or that in gzip or zstd. The caller must Close
// what it returns. Errors are ErrInvalid, content.ErrCorrupt for a blob that is not what
// its name says, errdefs.ErrResourceExhausted for a full disk, and those of r.
func Read(ctx context.Context, r io.Reader, store *content.Store) (*Archive, error) {
	a := &Archive{
		store: store,
		files: map[string]*content.Writer{}, links: map[string]string{},
		blobs: map[digest.Digest]*content.Writer{}, made: map[digest.Digest][]byte{},
	}
	if err := a.read(ctx, r); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Close removes what nobody has taken into the content store. It is idempotent.
func (a *Archive) Close() {
	for _, w := range a.files {
		w.Abort()
	}
}

func (a *Archive) read(ctx context.Context, r io.Reader) error {
	src := &source{r: r}
	plain, end, err := src.inflate()
	if err != nil {
		return err
	}
	defer end()
	t := tar.NewReader(plain)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			// What is behind the end has to be taken off a pipe, and checked if compressed.
			_, err := io.Copy(io.Discard, plain)
			return src.failure(err)
		}
		if err != nil {
			return src.failure(err)
		}
		if n == maxEntries {
			return fmt.Errorf("more than %d entries: %w", maxEntries, ErrInvalid)
		}
		if err := a.entry(h, t, src); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
	}
}

// entry takes one entry of the archive.
func (a *Archive) entry(h *tar.Header, body io.Reader, src *source) error {
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	name := path.Clean(h.Name)
	if len(h.Name) > maxName || !filepath.IsLocal(name) || name == "." {
		return fmt.Errorf("name leads out of the archive: %w", ErrInvalid)
	}
	if a.files[name] != nil || a.links[name] != "" {
		return fmt.Errorf("is there twice: %w", ErrInvalid)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		if isSparse(h) {
			return fmt.Errorf("is a sparse file: %w", ErrInvalid)
		}
		return a.file(name, h.Size, body, src)
	case tar.TypeSymlink:
		return a.link(name, path.Join(path.Dir(name), h.Linkname), h.Linkname)
	case tar.TypeLink:
		return a.link(name, path.Clean(h.Linkname), h.Linkname)
	}
	return fmt.Errorf("is of type %q: %w", h.Typeflag, ErrInvalid)
}

// isSparse tells of files of which the archive holds less than they are long: zeros that
// cost the archive nothing and the disk much.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func (a *Archive) link(name, target, said string) error {
	if path.IsAbs(said) || len(said) > maxName || !filepath.IsLocal(target) {
		return fmt.Errorf("links to %.200q, out of the archive: %w", said, ErrInvalid)
	}
	if _, isBlob := blobName(name); isBlob {
		return fmt.Errorf("is a blob and a link: %w", ErrInvalid)
	}
	a.links[name] = target
	return nil
}

// file writes one file to the scratch. One that is named like a blob has to be that.
func (a *Archive) file(name string, size int64, body io.Reader, src *source) error {
	want, isBlob := blobName(name)
	if isBlob && want == "" {
		return fmt.Errorf("digest is malformed or of an unknown algorithm: %w", ErrInvalid)
	}
	if free, err := a.store.Free(); err != nil || size > free {
		return errors.Join(err, fmt.Errorf("has %d bytes, there is room for %d: %w", size, free, errdefs.ErrResourceExhausted))
	}
	w, err := a.store.Writer(want, size)
	if err != nil {
		return err
	}
	a.files[name] = w
	if _, err := io.Copy(w, body); err != nil {
		return src.failure(err)
	}
	if err := w.Seal(); err != nil {
		return err
	}
	a.blobs[w.Digest()] = w
	return nil
}

// blobName tells whether the name is that of a blob of an OCI layout, and of which; ""
// if the digest makes no sense.
func blobName(name string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(name, blobsDirectory+"/")
	if !ok {
		return "", false
	}
	algorithm, hex, _ := strings.Cut(rest, "/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		return "", true
	}
	return d, true
}

// lookup finds a file by its name, through links.
func (a *Archive) lookup(name string) (*content.Writer, error) {
	clean := path.Clean(name)
	if !filepath.IsLocal(clean) {
		return nil, fmt.Errorf("file %.200q is outside of the archive: %w", name, ErrInvalid)
	}
	for range maxLinks {
		if w := a.files[clean]; w != nil {
			return w, nil
		}
		next, ok := a.links[clean]
		if !ok {
			return nil, fmt.Errorf("file %.200q is not in the archive: %w", name, ErrInvalid)
		}
		clean = next
	}
	return nil, fmt.Errorf("file %.200q is behind more than %d links: %w", name, maxLinks, ErrInvalid)
}

// content reads a small file.
func (a *Archive) content(name string, limit int64) ([]byte, error) {
	w, err := a.lookup(name)
	if err != nil {
		return nil, err
	}
	return readSmall(w, name, limit)
}

func readSmall(w *content.Writer, name string, limit int64) ([]byte, error) {
	if w.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: %w", name, w.Size(), limit, ErrInvalid)
	}
	b, err := w.Open()
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

// Has tells whether the archive holds the blob.
func (a *Archive) Has(d digest.Digest) bool { return a.blobs[d] != nil || a.made[d] != nil }

// Blob reads a document, of at most limit bytes. One that is missing is ErrInvalid.
func (a *Archive) Blob(_ context.Context, d digest.Digest, _, limit int64) ([]byte, error) {
	if raw, ok := a.made[d]; ok {
		return raw, nil
	}
	w, err := a.Writer(d)
	if err != nil {
		return nil, err
	}
	return readSmall(w, "blob "+d.String(), limit)
}

// Writer is the blob as it was written, for the content store to take.
func (a *Archive) Writer(d digest.Digest) (*content.Writer, error) {
	if w := a.blobs[d]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("blob %s is not in the archive: %w", d, ErrInvalid)
}

// source is what the archive is read from.
type source struct {
	r       io.Reader
	in, out int64
	readErr error
}

// Read implements io.Reader, and remembers the errors that are not the archive's.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.in += int64(n)
	if err != nil && err != io.EOF {
		s.readErr = err
	}
	return n, err
}

// inflate looks at the first bytes for a compression.
func (s *source) inflate() (io.Reader, func(), error) {
	b := bufio.NewReaderSize(s, 128<<10)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case len(magic) == 0:
		return nil, nil, fmt.Errorf("there is nothing to read: %w", ErrInvalid)
	case len(magic) > 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, s.failure(err)
		}
		return &bounded{s: s, r: z}, func() { z.Close() }, nil
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, s.failure(err)
		}
		return &bounded{s: s, r: z}, z.Close, nil
	}
	return b, func() {}, nil
}

// failure tells the archive's fault from that of the disk and of where it is read from.
func (s *source) failure(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrInvalid) || errors.Is(err, content.ErrCorrupt) || errors.Is(err, errdefs.ErrResourceExhausted):
		return err
	case s.readErr != nil:
		return fmt.Errorf("read archive: %w", s.readErr)
	}
	return fmt.Errorf("%w: %w", err, ErrInvalid)
}

// bounded refuses what inflates to more than an honest archive does.
type bounded struct {
	s *source
	r io.Reader
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.s.out += int64(n)
	if b.s.out > ratioFloor && b.s.out/maxRatio > b.s.in {
		return 0, fmt.Errorf("%d bytes inflate to more than %d: %w", b.s.in, b.s.out, ErrInvalid)
	}
	return n, err
}
