// Package pidlock makes sure that a directory has one daemon only.
package pidlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FileName is the lock's name in the directory. The file holds the PID of the
// process that has the lock and stays when the lock is released: a lock on a
// file that someone else has just removed would hold nothing.
const FileName = "berthd.lock"

// HeldError says that another process has the directory.
type HeldError struct {
	Dir string
	// PID of the other process; 0 if it did not say.
	PID int
}

func (e *HeldError) Error() string {
	who := "another berthd"
	if e.PID != 0 {
		who = fmt.Sprintf("berthd with PID %d", e.PID)
	}
	return fmt.Sprintf("directory %q is in use by %s", e.Dir, who)
}

// Lock is held until Release or the end of the process, however it ends.
type Lock struct{ file *os.File }

// patience is how long Acquire waits for another to let go. A daemon that is killed while
// it starts a program leaves its lock to that until the program has begun.
const patience = 2 * time.Second

// Acquire takes the lock of a directory that is there. If another process has the lock,
// and keeps it, the error is a *HeldError.
func Acquire(dir string) (*Lock, error) {
	file, err := os.OpenFile(filepath.Join(dir, FileName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	switch err := flock(file); {
	case errors.Is(err, unix.EWOULDBLOCK):
		defer file.Close()
		return nil, &HeldError{Dir: dir, PID: holder(file)}
	case err != nil:
		file.Close()
		return nil, fmt.Errorf("lock %q: %w", file.Name(), err)
	}
	if err := writePID(file); err != nil {
		file.Close()
		return nil, fmt.Errorf("write PID to %q: %w", file.Name(), err)
	}
	return &Lock{file}, nil
}

func flock(file *os.File) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return err
		}
	}
}

// Release gives the lock back. It may be called more than once.
func (l *Lock) Release() { l.file.Close() }

func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder reads the PID. The other process may have the lock and not have written
// yet, so an empty file is looked at again for a moment.
func holder(file *os.File) int {
	for range 20 {
		text := make([]byte, 32)
		n, _ := file.ReadAt(text, 0)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil {
			return pid
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}
