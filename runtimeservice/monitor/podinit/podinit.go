// Package podinit starts the init process of a pod whose containers share one
// PID namespace. The process is this program again, but all it runs is C code
// that comes before the Go runtime; a program that imports the package has it.
package podinit

// #cgo CFLAGS: -Wall -Wextra -Werror
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Config describes a pod's init.
type Config struct {
	// EmptyDir is an empty directory; a read-only view of it is all the
	// process sees of the file system.
	EmptyDir string
	// Namespaces are paths of namespaces to join.
	Namespaces []string
	// Place puts the process, which waits, where it belongs.
	Place func(pid int) error
}

// Start runs the process, in a PID namespace and a mount namespace of its own,
// and returns when it is ready. On error nothing is left.
func Start(config Config) (*os.Process, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	cmd, files, err := command(config, theirs)
	defer func() {
		theirs.Close()
		closeAll(files)
	}()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start init of pod: %w", err)
	}
	theirs.Close()
	if err := handshake(config, cmd.Process.Pid, ours); err != nil {
		_ = cmd.Process.Kill()
		_, _ = cmd.Process.Wait()
		return nil, err
	}
	return cmd.Process, nil
}

func command(config Config, control *os.File) (*exec.Cmd, []*os.File, error) {
	cmd := exec.Command("/proc/self/exe", "pod-init", config.EmptyDir)
	cmd.Args[0] = os.Args[0]
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{control}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Setsid:     true,
	}
	var files []*os.File
	for _, path := range config.Namespaces {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, files, fmt.Errorf("open namespace of pod: %w", err)
		}
		files = append(files, f)
		cmd.Args = append(cmd.Args, strconv.Itoa(3+len(cmd.ExtraFiles)))
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	return cmd, files, nil
}

func handshake(config Config, pid int, control *os.File) error {
	if config.Place != nil {
		if err := config.Place(pid); err != nil {
			return fmt.Errorf("place init of pod: %w", err)
		}
	}
	if _, err := control.Write([]byte{1}); err != nil {
		return fmt.Errorf("release init of pod: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(control, 1024))
	if err != nil {
		return fmt.Errorf("wait for init of pod: %w", err)
	}
	if len(text) > 0 {
		return fmt.Errorf("init of pod: %w", errors.New(string(text)))
	}
	return nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "pod-init"), os.NewFile(uintptr(fds[1]), "pod-init"), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
