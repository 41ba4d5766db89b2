package stats

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// files reads the files of one cgroup and remembers the first error.
type files struct {
	dir func(controller string) string
	err error
}

// read returns the content of a file that the node need not have.
func (f *files) read(controller, name string) ([]byte, bool) {
	raw, err := readFile(f.dir(controller) + "/" + name)
	if err != nil {
		// EOPNOTSUPP: the kernel has the file and was told not to count.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) && f.err == nil {
			f.err = err
		}
		return nil, false
	}
	return raw, true
}

func (f *files) must(controller, name string) []byte {
	raw, err := readFile(f.dir(controller) + "/" + name)
	if err != nil && f.err == nil {
		f.err = err
	}
	return raw
}

func (f *files) parse(name string, raw []byte) uint64 {
	n, ok := number(bytes.TrimSpace(raw))
	if !ok && f.err == nil {
		f.err = fmt.Errorf("%s: %q is not a number", name, bytes.TrimSpace(raw))
	}
	return n
}

func (f *files) number(controller, name string) uint64 {
	raw := f.must(controller, name)
	if f.err != nil {
		return 0
	}
	return f.parse(name, raw)
}

func (f *files) optional(controller, name string) uint64 {
	raw, ok := f.read(controller, name)
	if !ok {
		return 0
	}
	return f.parse(name, raw)
}

// limit reads a file that has a number or "max". The root cgroup has none.
func (f *files) limit(controller, name string) uint64 {
	raw, ok := f.read(controller, name)
	if !ok || bytes.HasPrefix(raw, []byte("max")) {
		return NoLimit
	}
	return f.parse(name, raw)
}

// table hands the lines of a file that are a key and a number.
func (f *files) table(controller, name string, each func(key []byte, value uint64)) {
	tableOf(f.must(controller, name), each)
}

func (f *files) optionalTable(controller, name string, each func(key []byte, value uint64)) {
	raw, _ := f.read(controller, name)
	tableOf(raw, each)
}

func tableOf(raw []byte, each func(key []byte, value uint64)) {
	for len(raw) > 0 {
		var line []byte
		line, raw, _ = bytes.Cut(raw, []byte{'\n'})
		key, value, ok := bytes.Cut(line, []byte{' '})
		if !ok {
			continue
		}
		if n, ok := number(value); ok { // else one of a kind that a newer kernel has
			each(key, n)
		}
	}
}

// number parses without allocating.
func number(raw []byte) (n uint64, ok bool) {
	const cutoff = (1<<64 - 1) / 10
	for _, c := range raw {
		if c < '0' || c > '9' || n > cutoff {
			return 0, false
		}
		next := n*10 + uint64(c-'0')
		if next < n*10 {
			return 0, false
		}
		n = next
	}
	return n, len(raw) > 0
}

func formatNumber(n uint64) string { return strconv.FormatUint(n, 10) }

// statFileSize is more than any file read here has.
const statFileSize = 16 << 10

var buffers = sync.Pool{New: func() any { return new([statFileSize]byte) }}

// readFile is os.ReadFile without its detour through the poller, which for files
// of cgroups costs more than the reading.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	buf := buffers.Get().(*[statFileSize]byte)
	defer buffers.Put(buf)
	total := 0
	for total < len(buf) {
		n, err := unix.Read(fd, buf[total:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			if errors.Is(err, unix.ENODEV) { // the cgroup was removed meanwhile
				err = unix.ENOENT
			}
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			break
		}
		total += n
	}
	return bytes.Clone(buf[:total]), nil
}
