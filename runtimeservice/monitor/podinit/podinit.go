// Package podinit starts the init process of a pod whose containers share one
// PID namespace. The process is this program again, but all it runs is C code
// that comes before the Go runtime; a program that imports the package has it.
package podinit

// #cgo CFLAGS: -Wall -Wextra -Werror
import "C"

import (
	"bytes"
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
	// User is the path of a user namespace whose root the process is to be, and
	// to which its PID namespace is to belong; "" for the caller's.
	User string
	// Label is the SELinux label of the process; "" for the caller's.
	Label string
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
	process := cmd.Process
	second, err := handshake(config, process.Pid, ours)
	if config.User != "" {
		// It ends by itself: before the error, or with the second process begun.
		_ = process.Kill()
		_, _ = process.Wait()
		process = second
	}
	if err != nil {
		if process != nil {
			_ = process.Kill()
			_, _ = process.Wait()
		}
		return nil, err
	}
	return process, nil
}

func command(config Config, control *os.File) (*exec.Cmd, []*os.File, error) {
	cmd := exec.Command("/proc/self/exe", "pod-init", config.EmptyDir, config.Label)
	cmd.Args[0] = os.Args[0]
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{control}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Setsid:     true,
	}
	paths := config.Namespaces
	if config.User != "" {
		// A PID namespace belongs to the user namespace that its maker is in.
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
		cmd.Args = append(cmd.Args, "user")
		paths = append([]string{config.User}, paths...)
	}
	var files []*os.File
	for _, path := range paths {
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

// handshake lets the process begin and waits until it is ready. With a user
// namespace a second process takes its place, which is returned, also beside an
// error.
func handshake(config Config, pid int, control *os.File) (*os.Process, error) {
	if config.Place != nil {
		if err := config.Place(pid); err != nil {
			return nil, fmt.Errorf("place init of pod: %w", err)
		}
	}
	if _, err := control.Write([]byte{1}); err != nil {
		return nil, fmt.Errorf("release init of pod: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(control, 1024))
	if err != nil {
		return nil, fmt.Errorf("wait for init of pod: %w", err)
	}
	second, text := takeSecond(text)
	if len(text) > 0 {
		return second, fmt.Errorf("init of pod: %w", errors.New(string(text)))
	}
	if second == nil && config.User != "" {
		return nil, errors.New("init of pod: it ended before it began")
	}
	return second, nil
}

// takeSecond takes "\x01<pid>\n" out of what the processes say, which need not be
// where it begins.
func takeSecond(text []byte) (*os.Process, []byte) {
	before, rest, ok := bytes.Cut(text, []byte{1})
	number, after, whole := bytes.Cut(rest, []byte("\n"))
	pid, err := strconv.Atoi(string(number))
	if !ok || !whole || err != nil || pid <= 1 {
		return nil, text
	}
	second, err := os.FindProcess(pid)
	if err != nil {
		return nil, text
	}
	return second, append(before, after...)
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
