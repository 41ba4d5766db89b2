// Package namespaces makes the namespaces of a pod without a process in them.
//
// A thread moves into fresh namespaces, sets them up from inside, bind-mounts them onto
// files and ends. The mounts, called pins, keep the namespaces until Remove, over a restart
// of the daemon too. Pins are seen by every process of the daemon's mount namespace; where
// the directory is on a shared mount its peers get both the pins and their removal.
package namespaces

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Kind is a kind of namespace, named as under /proc/self/ns; its pin has that file name.
type Kind string

// The kinds a sandbox can pin. Create makes all but the PID namespace, which begins with a
// process, whose own is pinned with Pin.
const (
	Network Kind = "net"
	IPC     Kind = "ipc"
	UTS     Kind = "uts"
	PID     Kind = "pid"
	User    Kind = "user"
)

var kinds = []Kind{Network, IPC, UTS, PID, User}

// maxHostname is the kernel's __NEW_UTS_LEN.
const maxHostname = 64

// Request says which namespaces a sandbox gets and how they begin.
type Request struct {
	// Dir is the directory of the pins; it is made, with its parents, if missing.
	Dir string
	// Network, IPC and UTS say which namespaces are made.
	Network, IPC, UTS bool
	// User, unless nil, asks for a user namespace with that mapping, which then owns the
	// others: its root may do in them what only the node's root may do otherwise.
	User *UserMapping
	// Hostname is set in the UTS namespace; empty leaves the node's.
	Hostname string
	// Sysctls are set in the network and IPC namespaces; see ValidateSysctls.
	Sysctls map[string]string
}

// Pins are the paths of pinned namespaces.
type Pins map[Kind]string

// Create makes the namespaces of req and pins them under req.Dir. In the network namespace
// lo is up, with 127.0.0.1 and ::1, router advertisements are not accepted, and ports below
// 1024 and ICMP echo need no capability unless a sysctl of req says otherwise.
//
// It makes all of them or none. The error is ErrInvalidArgument for a sysctl or a host name
// that the pod may not set, ErrAlreadyExists where a pin of that directory exists.
func Create(ctx context.Context, req Request) (Pins, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sysctls, err := parseSysctls(req.Sysctls, req.Network, req.IPC)
	if err != nil {
		return nil, err
	}
	if err := validateHostname(req); err != nil {
		return nil, err
	}
	if req.Network {
		sysctls = append(podDefaults(), sysctls...)
	}
	if err := os.MkdirAll(req.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of namespaces: %w", err)
	}
	pins := make(Pins)
	if req.User != nil {
		err = createOwned(req, sysctls, pins)
	} else {
		err = onDoomedThread(func() error { return create(req, sysctls, pins) })
	}
	if err != nil {
		for _, path := range pins {
			err = errors.Join(err, removePin(path))
		}
		return nil, err
	}
	return pins, nil
}

// create runs on the thread that moves into the namespaces. Every pin it made is in pins,
// also when it fails.
func create(req Request, sysctls []sysctl, pins Pins) error {
	flags, made := req.flags()
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare namespaces %v: %w", made, err)
	}
	if err := setUp(req, sysctls, 0); err != nil {
		return err
	}
	for _, kind := range made {
		path := filepath.Join(req.Dir, string(kind))
		if err := pin(filepath.Join("/proc/thread-self/ns", string(kind)), path); err != nil {
			return err
		}
		pins[kind] = path
	}
	return nil
}

// setUp sets up the namespaces that the calling thread is in; owner is the user on the node
// that they belong to.
func setUp(req Request, sysctls []sysctl, owner uint32) error {
	if req.UTS && req.Hostname != "" {
		if err := unix.Sethostname([]byte(req.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", req.Hostname, err)
		}
	}
	if err := applySysctls(sysctls, owner); err != nil {
		return err
	}
	if req.Network {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	return nil
}

func (r Request) flags() (flags int, made []Kind) {
	for _, k := range []struct {
		want bool
		kind Kind
		flag int
	}{{r.Network, Network, unix.CLONE_NEWNET}, {r.IPC, IPC, unix.CLONE_NEWIPC}, {r.UTS, UTS, unix.CLONE_NEWUTS}} {
		if k.want {
			flags |= k.flag
			made = append(made, k.kind)
		}
	}
	return flags, made
}

func validateHostname(req Request) error {
	switch {
	case req.Hostname == "":
		return nil
	case !req.UTS:
		return fmt.Errorf("host name %q: the pod shares the node's UTS namespace: %w", req.Hostname, errdefs.ErrInvalidArgument)
	case len(req.Hostname) > maxHostname:
		return fmt.Errorf("host name %q is longer than %d bytes: %w", req.Hostname, maxHostname, errdefs.ErrInvalidArgument)
	}
	return nil
}
