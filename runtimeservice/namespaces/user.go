package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDRange maps Length IDs that begin with ContainerID in a user namespace to those that
// begin with HostID on the node.
type IDRange struct {
	ContainerID, HostID, Length uint32
}

// UserMapping is how the IDs of a user namespace are seen on the node.
type UserMapping struct {
	UIDs, GIDs []IDRange
}

// HostRoot returns who the namespace's root is on the node. Where ID 0 is not mapped that is
// the node's own root, to whom nothing of the namespace belongs.
func (m UserMapping) HostRoot() (uid, gid uint32) {
	uid, _ = hostID(m.UIDs, 0)
	gid, _ = hostID(m.GIDs, 0)
	return uid, gid
}

func hostID(ranges []IDRange, id uint32) (uint32, bool) {
	for _, r := range ranges {
		if id >= r.ContainerID && id-r.ContainerID < r.Length {
			return r.HostID + (id - r.ContainerID), true
		}
	}
	return 0, false
}

func sysMapping(ranges []IDRange) []syscall.SysProcIDMap {
	all := make([]syscall.SysProcIDMap, 0, len(ranges))
	for _, r := range ranges {
		all = append(all, syscall.SysProcIDMap{ContainerID: int(r.ContainerID), HostID: int(r.HostID), Size: int(r.Length)})
	}
	return all
}

// OpenUser makes a user namespace that no process is in, and returns a descriptor that keeps
// it. An ID-mapped mount can be made with it.
func OpenUser(m UserMapping) (*os.File, error) {
	var file *os.File
	err := inNamespacesOf(m, 0, func(pid int) (err error) {
		file, err = os.Open(procNamespace(pid, User))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return file, nil
}

func procNamespace(pid int, kind Kind) string {
	return filepath.Join("/proc", strconv.Itoa(pid), "ns", string(kind))
}

// inNamespacesOf calls fn with the ID of a process in a fresh user namespace, and in those
// fresh ones of flags, which that one owns. A thread cannot move into a user namespace while
// its process has others, so this takes a process. It stops before its first instruction, as
// traced ones do after an exec, and is killed when fn is done, or this process.
func inNamespacesOf(m UserMapping, flags int, fn func(pid int) error) error {
	// Both the end of the thread, for Pdeathsig, and tracing are a matter of the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	process, err := os.StartProcess("/proc/self/exe", []string{"berth-namespaces", "--help"}, &os.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER | uintptr(flags),
			UidMappings:                sysMapping(m.UIDs),
			GidMappings:                sysMapping(m.GIDs),
			GidMappingsEnableSetgroups: true,
			Ptrace:                     true,
			Pdeathsig:                  syscall.SIGKILL,
		},
	})
	if err != nil {
		return fmt.Errorf("start a process in it: %w", err)
	}
	defer func() {
		_ = process.Kill()
		_, _ = process.Wait()
	}()
	if err := awaitStop(process.Pid); err != nil {
		return err
	}
	return fn(process.Pid)
}

// awaitStop waits until a traced process has stopped after its exec.
func awaitStop(pid int) error {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for the process in it: %w", err)
		case !status.Stopped():
			return fmt.Errorf("the process in it ended with status %#x", uint32(status))
		}
		return nil
	}
}

// createOwned makes namespaces that belong to a new user namespace, and pins them all. They
// are set up from a thread of this process, whose root may do in them what their own may.
func createOwned(req Request, sysctls []sysctl, pins Pins) error {
	flags, made := req.flags()
	err := inNamespacesOf(*req.User, flags, func(pid int) error {
		for _, kind := range append([]Kind{User}, made...) {
			path := filepath.Join(req.Dir, string(kind))
			if err := pin(procNamespace(pid, kind), path); err != nil {
				return err
			}
			pins[kind] = path
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make user namespace: %w", err)
	}
	return onDoomedThread(func() error {
		for _, kind := range made {
			if err := join(pins[kind], kind); err != nil {
				return err
			}
		}
		uid, gid := req.User.HostRoot()
		if req.IPC && uid != 0 {
			if err := ownQueues(uid, gid); err != nil {
				return err
			}
		}
		return setUp(req, sysctls, uid)
	})
}

// ownQueues gives the directory of the POSIX message queues, in the IPC namespace of the
// calling thread, to a user of the node. The kernel makes it with the namespace, for the user
// who called clone(2): the node's root, whose files the pod's root cannot label.
func ownQueues(uid, gid uint32) error {
	root, err := detached("mqueue")
	if errors.Is(err, unix.ENODEV) {
		return nil // a kernel without them
	}
	if err != nil {
		return err
	}
	defer unix.Close(root)
	// What Fsmount returns is like O_PATH.
	if err := unix.Fchownat(root, "", int(uid), int(gid), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("chown the message queues: %w", err)
	}
	return nil
}

func join(path string, kind Kind) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s namespace: %w", kind, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, 0); err != nil {
		return fmt.Errorf("enter %s namespace: %w", kind, err)
	}
	return nil
}

// asUser calls fn with the thread's effective user changed. The thread must be one that ends
// with its work: where the way back fails it is of no more use.
func asUser(uid uint32, fn func() error) error {
	if err := setThreadUser(uid); err != nil {
		return err
	}
	return errors.Join(fn(), setThreadUser(0))
}

// setThreadUser changes only the calling thread, other than what Go's own functions do.
func setThreadUser(uid uint32) error {
	const keep = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	return nil
}
