// Package pidfd waits for processes by file descriptor, whoever their parent
// is. Descriptors are plain ints that the caller owns, because there are two
// per container and an os.File for each would cost more than all else.
package pidfd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnknown says that the process has exited and that the kernel cannot tell
// its exit status to one who is not its parent.
var ErrUnknown = errors.New("exit status is known to the parent only")

// Open returns a pidfd of a living process, close-on-exec and non-blocking.
// It is ESRCH when there is none.
func Open(pid int) (int, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err == unix.EINVAL { // before Linux 5.10
		fd, err = unix.PidfdOpen(pid, 0)
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	return fd, nil
}

// Signal sends a signal; it wraps ESRCH when the process was reaped.
func Signal(fd int, sig syscall.Signal) error {
	return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(fd, sig, nil, 0))
}

// Exited reports whether the process has ended, reaped or not.
func Exited(fd int) bool {
	return Wait(fd, 0)
}

// Wait blocks up to the given number of milliseconds (-1: for ever) for the
// process to end and reports whether it did.
func Wait(fd, milliseconds int) bool {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, milliseconds)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n == 1 && p[0].Revents&(unix.POLLIN|unix.POLLHUP) != 0
	}
}

// Reap takes the exit status of a child. It is ECHILD where the process is
// somebody else's child or reaped, and ok is false while it runs.
func Reap(fd int) (status syscall.WaitStatus, ok bool, err error) {
	var info unix.Siginfo
	for {
		err = unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOHANG, nil)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == unix.EAGAIN:
		return 0, false, nil
	case err != nil:
		return 0, false, os.NewSyscallError("waitid", err)
	}
	return exitStatus(&info)
}

// childInfo is the part of siginfo_t that waitid(2) fills in.
type childInfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	uid                uint32
	status             int32
}

func exitStatus(info *unix.Siginfo) (syscall.WaitStatus, bool, error) {
	child := (*childInfo)(unsafe.Pointer(info))
	if child.pid == 0 {
		return 0, false, nil
	}
	const exited, dumped = 1, 3
	switch child.code {
	case exited:
		return syscall.WaitStatus(child.status << 8), true, nil
	case dumped:
		return syscall.WaitStatus(child.status | 0x80), true, nil
	default:
		return syscall.WaitStatus(child.status), true, nil
	}
}

// info is the first version of struct pidfd_info.
type info struct {
	mask     uint64
	cgroupID uint64
	pid      uint32
	ids      [10]uint32
	exitCode int32
}

// Status returns the exit status of a process that has ended and may be
// anybody's child. Linux tells it to holders of a pidfd since 6.15, after the
// process was reaped; before that, pid finds it as a zombie in /proc. It
// returns ErrUnknown if neither has it.
func Status(fd, pid int) (syscall.WaitStatus, error) {
	i := info{mask: unix.PIDFD_INFO_EXIT}
	const request = unix.PIDFD_GET_INFO&^(0x3fff<<16) | unix.PIDFD_INFO_SIZE_VER0<<16
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&i)))
	if errno == 0 && i.mask&unix.PIDFD_INFO_EXIT != 0 {
		return syscall.WaitStatus(i.exitCode), nil
	}
	if status, ok := zombieStatus(fd, pid); ok {
		return status, nil
	}
	return 0, ErrUnknown
}

// zombieStatus reads the last field of /proc/<pid>/stat. That the pid still is
// the process of the pidfd is asked afterwards, by a signal that does nothing.
func zombieStatus(fd, pid int) (syscall.WaitStatus, bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil || unix.PidfdSendSignal(fd, 0, nil, 0) != nil {
		return 0, false
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 50 || fields[0][0] != 'Z' {
		return 0, false
	}
	code, err := strconv.Atoi(string(fields[49]))
	return syscall.WaitStatus(code), err == nil
}

// Code turns a wait status into an exit code: 128+n for signal n.
func Code(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// StartTime returns when a process started, in clock ticks since boot; together
// with the pid it names one process for good.
func StartTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of process %d: %d fields", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
