package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// WriteFile reads blob to its end, closes it, and writes it as the file of that
// name into root, an empty directory, with the directories that lead there. Of
// spec the DiffID has no meaning. progress, when not nil, is told the bytes as they
// are written. On an error what was written stays for the caller to remove.
//
// Errors are those of Unpack.
func WriteFile(ctx context.Context, blob io.ReadCloser, spec Spec, root *os.File, name string, progress func(int64)) (Result, error) {
	// Closing is what ends a read that waits for the network.
	stop := context.AfterFunc(ctx, func() { blob.Close() })
	defer blob.Close()
	defer stop()
	clean, err := localName(name)
	if err != nil || clean == "." {
		return Result{}, fmt.Errorf("name %q of a file: %w", abbreviate(name), errors.Join(err, ErrHostile))
	}
	f, dirs, err := createFile(root, clean)
	if err != nil {
		return Result{}, fmt.Errorf("write %q: %w", abbreviate(name), named(err))
	}
	err = copyVerified(f, blob, spec, progress)
	var st unix.Stat_t
	if err == nil && spec.drops() {
		err = drop(int(f.Fd()), 0, 0)
	}
	if err == nil {
		err = errors.Join(f.Chmod(0o644), unix.Fstat(int(f.Fd()), &st))
	}
	err = errors.Join(err, f.Close())
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if err != nil {
		return Result{}, fmt.Errorf("write %q: %w", abbreviate(name), named(err))
	}
	return Result{
		Bytes:   uint64(st.Blocks)*512 + uint64(len(dirs))*blockSize,
		Inodes:  uint64(len(dirs)) + 1,
		TarSize: spec.Size, Implied: dirs,
	}, nil
}

// drops tells whether a single file of the blob's size leaves the page cache.
func (s Spec) drops() bool { return s.Cached > 0 && uint64(s.Size) > s.Cached }

// createFile makes the file and its directories, which it returns with the root.
func createFile(root *os.File, name string) (*os.File, []string, error) {
	dirs := []string{"."}
	at := int(root.Fd())
	parent, base := path.Split(name)
	for part := range strings.SplitSeq(strings.TrimSuffix(parent, "/"), "/") {
		if part == "" {
			continue
		}
		fd, err := makeDir(at, part)
		if at != int(root.Fd()) {
			unix.Close(at)
		}
		if err != nil {
			return nil, nil, err
		}
		at = fd
		dirs = append(dirs, path.Join(dirs[len(dirs)-1], part))
	}
	fd, err := unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if at != int(root.Fd()) {
		unix.Close(at)
	}
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), name), dirs, nil
}

func makeDir(at int, name string) (int, error) {
	if err := unix.Mkdirat(at, name, impliedDirMode); err != nil {
		return -1, err
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Fchmod(fd, impliedDirMode); err != nil { // whatever the umask is
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// copyVerified copies the blob and checks its size and digest.
func copyVerified(to *os.File, blob io.Reader, spec Spec, progress func(int64)) error {
	h := hasher(spec.Digest)
	buf := make([]byte, chunkSize)
	var size int64
	for {
		n, err := fill(blob, buf)
		if size += int64(n); size > spec.Size {
			return fmt.Errorf("blob %s is longer than the %d bytes that the manifest says: %w", spec.Digest, spec.Size, ErrCorrupt)
		}
		h.Write(buf[:n])
		spec.decrypt(buf[:n])
		if _, werr := to.Write(buf[:n]); werr != nil {
			return werr
		}
		if spec.drops() {
			if werr := writeBehind(int(to.Fd()), size); werr != nil {
				return werr
			}
		}
		if progress != nil {
			progress(int64(n))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if size < spec.Size {
		return fmt.Errorf("blob %s ends after %d of %d bytes: %w", spec.Digest, size, spec.Size, ErrCorrupt)
	}
	if got := sum(spec.Digest, h); got != spec.Digest {
		return fmt.Errorf("blob has digest %s, not %s: %w", got, spec.Digest, ErrCorrupt)
	}
	return spec.authentic()
}
