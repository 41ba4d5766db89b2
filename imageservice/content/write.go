package content

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/failpoint"
)

// Writer takes a new blob. It is for one goroutine.
type Writer struct {
	s    *Store
	file *os.File
	want digest.Digest // "" for whatever it becomes
	size int64         // -1 if it is not known
	n    int64
	hash hash.Hash
	done bool
}

// Writer begins a blob that must have the digest and the size; -1 is any size. An
// empty digest takes what comes, by its SHA-256. The caller ends with Commit or
// Abort.
func (s *Store) Writer(d digest.Digest, size int64) (*Writer, error) {
	algorithm := digest.SHA256
	if d != "" {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("write blob %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
		}
		algorithm = d.Algorithm()
	}
	f, err := os.CreateTemp(s.scratch, "blob-")
	if err != nil {
		return nil, fmt.Errorf("write blob: %w", named(err))
	}
	return &Writer{s: s, file: f, want: d, size: size, hash: algorithm.Hash()}, nil
}

// Write implements io.Writer. More than the announced size is ErrCorrupt.
func (w *Writer) Write(p []byte) (int, error) {
	if w.size >= 0 && w.n+int64(len(p)) > w.size {
		return 0, fmt.Errorf("blob %s is longer than %d bytes: %w", w.want, w.size, ErrCorrupt)
	}
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.n += int64(n)
	if err != nil {
		return n, fmt.Errorf("write blob: %w", named(err))
	}
	return n, nil
}

// Size is the number of bytes written so far.
func (w *Writer) Size() int64 { return w.n }

// Digest is that of the bytes written so far.
func (w *Writer) Digest() digest.Digest {
	algorithm := digest.SHA256
	if w.want != "" {
		algorithm = w.want.Algorithm()
	}
	return digest.NewDigest(algorithm, w.hash)
}

// Check returns ErrCorrupt if what was written is not the blob that was announced.
func (w *Writer) Check() error {
	if got := w.Digest(); w.want != "" && got != w.want {
		return fmt.Errorf("blob %s has digest %s: %w", w.want, got, ErrCorrupt)
	}
	if w.size >= 0 && w.n != w.size {
		return fmt.Errorf("blob %s has %d bytes and not %d: %w", w.want, w.n, w.size, ErrCorrupt)
	}
	return nil
}

// Seal ends the writing and verifies. What was written stays to be read, and to be
// committed or aborted; it holds no descriptor.
func (w *Writer) Seal() error {
	if err := w.Check(); err != nil {
		return err
	}
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("write blob: %w", named(err))
	}
	return nil
}

// Open reads what was sealed.
func (w *Writer) Open() (*Blob, error) {
	path := w.file.Name()
	if w.done {
		path = w.s.Path(w.Digest()) // committed
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("read what was written of a blob: %w", err)
	}
	return &Blob{File: f, size: w.n}, nil
}

// Commit verifies the blob and moves it into place. If it is there already, that one
// stays. Only the owner calls it. After an error nothing is left.
func (w *Writer) Commit() (digest.Digest, error) {
	d := w.Digest()
	err := w.Check()
	if err == nil && !w.s.Has(d) {
		if err = w.rename(d); err != nil {
			err = fmt.Errorf("move blob %s into place: %w", d, named(err))
		} else {
			w.done = true
			w.s.count(d)
		}
	}
	w.Abort()
	if err != nil {
		return "", err
	}
	return d, nil
}

func (w *Writer) rename(d digest.Digest) error {
	if err := failpoint.Hit("content/commit"); err != nil {
		return err
	}
	return os.Rename(w.file.Name(), w.s.Path(d))
}

// Abort removes what was written. It is idempotent, and does nothing after Commit.
func (w *Writer) Abort() {
	w.file.Close()
	if w.done {
		return
	}
	w.done = true
	if err := os.Remove(w.file.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.s.log.Warn("remove a partial blob", "path", w.file.Name(), "error", err)
	}
}

// Adopt moves a file, of mode 0600 and on the same file system, into place: it holds
// the blob, which its caller has verified. If the blob is there already, the file is
// removed. Only the owner calls it.
func (s *Store) Adopt(path string, d digest.Digest) error {
	if s.Has(d) {
		return os.Remove(path)
	}
	err := failpoint.Hit("content/adopt")
	if err == nil {
		err = os.Rename(path, s.Path(d))
	}
	if err != nil {
		return fmt.Errorf("move blob %s into place: %w", d, named(err))
	}
	s.count(d)
	return nil
}

// Reader returns a reader of the blob that fails with ErrCorrupt at its end if the
// bytes were not what the digest says.
func (b *Blob) Reader(d digest.Digest) io.Reader {
	return Verify(b, d)
}

// Verify returns a reader of r that fails with ErrCorrupt at the end if the bytes were not
// what the digest says.
func Verify(r io.Reader, d digest.Digest) io.Reader {
	return &verifier{r: r, want: d, hash: d.Algorithm().Hash()}
}

type verifier struct {
	r    io.Reader
	want digest.Digest
	hash hash.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	if err == io.EOF {
		if got := digest.NewDigest(v.want.Algorithm(), v.hash); got != v.want {
			return n, fmt.Errorf("blob %s has digest %s: %w", v.want, got, ErrCorrupt)
		}
	}
	return n, err
}
