package logfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Note is told of the two instants between which a log file has an unknown part of
// what is appended. Nobody else appends to the file in between.
type Note interface {
	// Writing comes before the first byte is written.
	Writing(Position)
	// Written comes when the output that is given is dealt with.
	Written(output []byte)
}

// Position is an end that a log file had. The file may have been renamed since.
type Position struct {
	Dev, Ino uint64
	Size     int64
}

func (w *Writer) position() (Position, error) {
	var st unix.Stat_t
	if err := unix.Fstat(w.fd, &st); err != nil {
		return Position{}, &os.PathError{Op: "stat log file", Path: w.path, Err: err}
	}
	return Position{Dev: st.Dev, Ino: st.Ino, Size: st.Size}, nil
}

// Restore cuts off what was written to the file since, wherever in the directory
// of path it is by now. A file that is gone, or shorter, is left alone.
func (p Position) Restore(path string) error {
	names := []string{path}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		names = append(names, filepath.Join(filepath.Dir(path), entry.Name()))
	}
	for _, name := range names {
		found, err := p.restore(name)
		if found || err != nil {
			return err
		}
	}
	return nil
}

func (p Position) restore(name string) (found bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil || st.Dev != p.Dev || st.Ino != p.Ino || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, nil
	}
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open log file", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != p.Dev || st.Ino != p.Ino {
		return false, err
	}
	if st.Size <= p.Size {
		return true, nil
	}
	if err := unix.Ftruncate(fd, p.Size); err != nil {
		return true, &os.PathError{Op: "truncate log file", Path: name, Err: err}
	}
	return true, nil
}
