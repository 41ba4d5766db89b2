package tree

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxUsageDepth bounds the descriptors that a measurement holds; what lies
// deeper is not counted.
const maxUsageDepth = 512

// Usage is what a tree takes of its file system.
type Usage struct {
	Bytes  uint64 // allocated, not apparent
	Inodes uint64
}

// Measure adds up what is below path, path included, and not what is mounted there.
// The tree may change meanwhile: what vanishes is not counted.
func Measure(ctx context.Context, path string) (Usage, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return Usage{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	m := measurer{ctx: ctx, linked: map[uint64]struct{}{}}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Usage{}, err
	}
	m.dev = st.Dev
	m.add(&st)
	err = m.walk(dir, 1)
	return m.usage, err
}

type measurer struct {
	ctx    context.Context
	usage  Usage
	dev    uint64
	linked map[uint64]struct{} // inodes with several names that were counted
}

func (m *measurer) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if _, ok := m.linked[st.Ino]; ok {
			return
		}
		m.linked[st.Ino] = struct{}{}
	}
	m.usage.Bytes += uint64(st.Blocks) * 512
	m.usage.Inodes++
}

func (m *measurer) walk(dir *os.File, depth int) error {
	for {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(namesPerRead)
		for _, name := range names {
			if err := m.entry(dir, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *measurer) entry(dir *os.File, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil // gone meanwhile
	}
	if st.Dev != m.dev {
		return nil
	}
	m.add(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || depth >= maxUsageDepth {
		return nil
	}
	sub, err := openDir(int(dir.Fd()), name)
	if err != nil {
		return nil // gone or replaced meanwhile
	}
	defer sub.Close()
	return m.walk(sub, depth+1)
}
