package spec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxRootFile is the most bytes that a file of the image may have to be read:
// /etc/passwd and /etc/group are the image's to fill.
const maxRootFile = 10 << 20

// lookupAttempts bounds how often a look-up is repeated that the kernel gives up
// because something was renamed meanwhile.
const lookupAttempts = 32

// readRootFile reads a regular file of at most maxRootFile bytes from a root file
// system. Links are followed as the container itself would, never out of the
// root. A file that does not exist gives an error that is fs.ErrNotExist.
func readRootFile(root, name string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := openInRoot(dir, name)
	if err != nil {
		return nil, &os.PathError{Op: "open in root file system", Path: name, Err: err}
	}
	defer unix.Close(fd)

	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &os.PathError{Op: "stat in root file system", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s of the image is not a regular file", name)
	}
	if st.Size > maxRootFile {
		return nil, fmt.Errorf("%s of the image has %d bytes, more than %d", name, st.Size, maxRootFile)
	}
	return readAgain(fd, name)
}

// openInRoot gives an O_PATH descriptor: opening a FIFO or a device for reading
// could block or have effects, and what it is is known only once it is open.
func openInRoot(dir int, name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range lookupAttempts {
		fd, err := unix.Openat2(dir, name, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// readAgain opens what fd stands for once more, for reading, and reads it whole.
func readAgain(fd int, name string) ([]byte, error) {
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s of the image: %w", name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRootFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", name, err)
	}
	if len(data) > maxRootFile {
		return nil, fmt.Errorf("%s of the image grew beyond %d bytes", name, maxRootFile)
	}
	return data, nil
}
