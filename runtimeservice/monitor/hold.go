package monitor

import (
	"fmt"
	"os"
)

// hold returns the descriptor of a file and keeps the file from being closed
// until the channel is. File.Fd would make it blocking and protect nothing.
func hold(f *os.File) (int, chan struct{}, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, nil, fmt.Errorf("descriptor of %s: %w", f.Name(), err)
	}
	got, release := make(chan int, 1), make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		failed <- raw.Control(func(fd uintptr) {
			got <- int(fd)
			<-release
		})
	}()
	select {
	case fd := <-got:
		return fd, release, nil
	case err := <-failed:
		return -1, nil, fmt.Errorf("descriptor of %s: %w", f.Name(), err)
	}
}
