package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A checkpoint holds the memory of a process: only root reads it.
const (
	fileMode = 0o600
	dirMode  = 0o700
)

// Limits of a checkpoint that is read.
const (
	// maxEntries bounds its files and directories. CRIU makes a few for each process.
	maxEntries = 200_000
	// maxName and maxDepth bound their names.
	maxName  = 1024
	maxDepth = 8
)

// Pack writes the directory of a container's checkpoint as an archive.
func Pack(ctx context.Context, dir string, w io.Writer) error {
	archive := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		hdr := &tar.Header{Name: name, ModTime: info.ModTime(), Format: tar.FormatPAX}
		switch {
		case info.IsDir():
			hdr.Typeflag, hdr.Name, hdr.Mode = tar.TypeDir, name+"/", dirMode
			return archive.WriteHeader(hdr)
		case info.Mode().IsRegular():
			hdr.Typeflag, hdr.Size, hdr.Mode = tar.TypeReg, info.Size(), fileMode
			return packFile(archive, hdr, path)
		default:
			return nil // CRIU leaves links to the images of others
		}
	})
	if err == nil {
		err = archive.Close()
	}
	if err != nil {
		return fmt.Errorf("write archive of checkpoint: %w", err)
	}
	return nil
}

func packFile(archive *tar.Writer, hdr *tar.Header, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := archive.WriteHeader(hdr); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}

// Unpack writes the checkpoint of an archive, which is not compressed, into an empty
// directory. size is the archive's: no more is written than that. An archive with anything
// but regular files and directories, with a name twice or one that leads out of the
// directory, is ErrInvalidArgument; so is one that is too large for the limits above.
func Unpack(ctx context.Context, r io.Reader, size int64, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack checkpoint: %w", err)
	}
	defer root.Close()
	w := writer{ctx: ctx, root: root, left: size}
	archive := tar.NewReader(r)
	for {
		hdr, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack checkpoint: it is not an archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := w.entry(hdr, archive); err != nil {
			return fmt.Errorf("unpack checkpoint: %w", err)
		}
	}
}

// writer writes the entries of a checkpoint that comes from elsewhere.
type writer struct {
	ctx     context.Context
	root    *os.Root
	left    int64
	entries int
}

func (w *writer) entry(hdr *tar.Header, r io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeReg:
		return w.file(hdr.Name, r)
	case tar.TypeDir:
		return w.dir(hdr.Name)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return refused(hdr.Name, "it is neither a file nor a directory")
	}
}

func refused(name, why string) error {
	return fmt.Errorf("%.100q is refused: %s: %w", name, why, errdefs.ErrInvalidArgument)
}

// local checks a name and counts it.
func (w *writer) local(name string) (string, error) {
	if err := context.Cause(w.ctx); err != nil {
		return "", err
	}
	if w.entries++; w.entries > maxEntries {
		return "", refused(name, fmt.Sprintf("there are more than %d entries", maxEntries))
	}
	clean := filepath.Clean(name)
	if len(name) > maxName || !filepath.IsLocal(clean) || strings.Count(clean, "/") >= maxDepth {
		return "", refused(name, "it is no name within a checkpoint")
	}
	return clean, nil
}

func (w *writer) dir(name string) error {
	clean, err := w.local(name)
	if err != nil {
		return err
	}
	return w.parents(clean)
}

// parents makes a directory and those that it is in.
func (w *writer) parents(dir string) error {
	if err := w.root.MkdirAll(dir, dirMode); err != nil {
		if errors.Is(err, os.ErrExist) || errors.Is(err, unix.ENOTDIR) {
			return refused(dir, "it is a file too")
		}
		return diskError(err)
	}
	return nil
}

func (w *writer) file(name string, r io.Reader) error {
	clean, err := w.local(name)
	if err != nil {
		return err
	}
	if err := w.parents(filepath.Dir(clean)); err != nil {
		return err
	}
	f, err := w.root.OpenFile(clean, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, fileMode)
	if errors.Is(err, os.ErrExist) {
		return refused(name, "it is there twice")
	}
	if err != nil {
		return diskError(err)
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(&cancellable{w.ctx, r}, w.left+1))
	if w.left -= n; err == nil && w.left < 0 {
		return refused(name, "there is more in the archive than its size")
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return refused(name, "the archive ends in it")
	}
	return diskError(errors.Join(err, f.Close()))
}

// diskError gives the error of a full disk its kind.
func diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}

// cancellable is a reader that ends with its context.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
