package server

import (
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// keepHostname notes the host name of the UTS namespace that a container joins, and returns
// what sets it again: CRIU gives a namespace the name that the checkpoint had, also one that
// is not the checkpoint's.
func keepHostname(spec *specs.Spec) (restore func() error, err error) {
	at := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UTSNamespace && n.Path != ""
	})
	if at < 0 {
		return func() error { return nil }, nil
	}
	path := spec.Linux.Namespaces[at].Path
	var name unix.Utsname
	if err := inUTS(path, func() error { return unix.Uname(&name) }); err != nil {
		return nil, fmt.Errorf("read host name of the pod: %w", err)
	}
	return func() error {
		err := inUTS(path, func() error {
			if err := unix.Sethostname([]byte(unix.ByteSliceToString(name.Nodename[:]))); err != nil {
				return err
			}
			return unix.Setdomainname([]byte(unix.ByteSliceToString(name.Domainname[:])))
		})
		if err != nil {
			return fmt.Errorf("set host name of the pod again: %w", err)
		}
		return nil
	}, nil
}

// inUTS calls f on a thread in a UTS namespace. The thread is not used again if it does not
// come back from there.
func inUTS(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/uts")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer own.Close()
		err = enterUTS(path)
		if err == nil {
			err = f()
		}
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWUTS) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func enterUTS(path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWUTS))
}
