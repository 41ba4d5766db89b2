package hostpath

import (
	"context"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// MaxFile is the most bytes that Read reads.
const MaxFile = 4 << 20

// Read returns the content of a regular file. A file that is none is EINVAL, one of more than
// MaxFile bytes EFBIG; other errors are those of Resolve.
func (r *Resolver) Read(ctx context.Context, name string) ([]byte, error) {
	p, err := r.Resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	m, found, err := FindMount(p.Mount)
	if err != nil {
		return nil, err
	}
	if r.program != "" && (!found || m.MayHang()) {
		content, err := r.run(ctx, ReadCommand, p.Name)
		return []byte(content), err
	}
	content, err := read(p.Name)
	return content, pathError(name, err)
}

// read waits for the file system.
func read(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, unix.EINVAL
	}
	content, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(content) > MaxFile {
		err = unix.EFBIG
	}
	return content, err
}
