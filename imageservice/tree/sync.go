package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Sync brings path and all below it to the disk, without what other programs have
// written to the same file system: their data waits for nobody, and nobody waits
// for it. When it returns nil, the tree is there after a power loss; its own name
// is its parent's to sync.
//
// It goes through the tree twice. First the data of all files is set on its way,
// which makes the file system find places for it. Then each file and directory is
// waited for; by then there is little to wait for, and the file system's journal
// is written a few times, not once a file.
//
// An error means that the tree cannot be trusted after a power loss, and that
// another call may not find out again: the kernel tells of a lost write once.
// With drop, the files leave the page cache.
func Sync(ctx context.Context, path string, drop bool) error {
	for _, pass := range []func(*os.File, bool) error{startWriting, waitWritten} {
		dir, err := openDir(unix.AT_FDCWD, path)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		s := syncer{ctx: ctx, file: func(f *os.File) error { return pass(f, drop) }}
		err = s.directory(dir)
		dir.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
	}
	return nil
}

func startWriting(f *os.File, _ bool) error {
	return SyncRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// SyncRange is sync_file_range(2), and nothing for directories and on file systems that
// do not know it.
func SyncRange(fd int, offset, n int64, how int) error {
	err := unix.SyncFileRange(fd, offset, n, how)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil
	}
	return err
}

func waitWritten(f *os.File, drop bool) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if drop {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return nil
}

// syncer does something to every file and directory of a tree, to a directory
// after what is in it. Links and device nodes are their directories' content.
type syncer struct {
	ctx  context.Context
	file func(*os.File) error
}

func (s *syncer) directory(dir *os.File) error {
	for {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		entries, err := dir.ReadDir(namesPerRead)
		for _, e := range entries {
			if err := s.entry(dir, e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return s.file(dir)
		}
		if err != nil {
			return err
		}
	}
}

func (s *syncer) entry(dir *os.File, e os.DirEntry) error {
	switch {
	case e.IsDir():
		sub, err := openDir(int(dir.Fd()), e.Name())
		if err != nil {
			return &os.PathError{Op: "open", Path: e.Name(), Err: err}
		}
		defer sub.Close()
		return s.directory(sub)
	case e.Type().IsRegular():
		fd, err := unix.Openat(int(dir.Fd()), e.Name(), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME|unix.O_NONBLOCK, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: e.Name(), Err: err}
		}
		f := os.NewFile(uintptr(fd), e.Name())
		defer f.Close()
		return s.file(f)
	}
	return nil
}

// SyncDir brings the names in a directory to the disk.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
