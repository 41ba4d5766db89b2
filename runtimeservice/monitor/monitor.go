// Package monitor is the daemon's side of berth-monitor, the one process per
// state directory that is parent of every container.
//
// A Client connects to the monitor of a directory, or starts it, and asks it
// to start, signal, update and remove containers. It also keeps a second
// reference to the pidfd and the stdio of every container. So either of the
// two programs may be killed at any instant: while the daemon is away the
// monitor goes on writing logs and keeping exit codes; when the monitor is gone
// the client starts another one and hands the references over.
//
// Steps of a caller: New, Connect (once; from here on every method works),
// Run in a goroutine (supervises the monitor), Close. Close leaves the monitor
// and all containers running.
package monitor

import (
	"log/slog"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// Options says where the monitor of a Client lives and whom to tell of exits.
type Options struct {
	// Dir holds the socket, the lock and libcontainer's state. It is made
	// with mode 0700 where it does not exist.
	Dir string
	// Binary is the path of the program berth-monitor.
	Binary string
	// CgroupParent is the cgroup the monitor puts itself into, as an absolute
	// path below the mount point of each hierarchy. Empty: it stays in the
	// cgroup it was started in.
	CgroupParent string
	// Logger gets what the client does by itself. Nil discards it.
	Logger *slog.Logger
	// OnExit is called once for every exit of a container, from one goroutine
	// and in the order of the exits. The exit counts as taken note of, and is
	// not told to a later Client, as soon as the call returned; so record it
	// in there. Exits that happened while no client was connected are told
	// during or soon after Connect.
	OnExit func(Exit)
}

// StartRequest describes a container to be created and started.
type StartRequest struct {
	// ID names the container: ASCII letters, digits, '_', '+', '-', '.'.
	ID string
	// Spec is the OCI runtime configuration; Spec.Root.Path is the mounted
	// root file system and Spec.Process.Terminal asks for a pty.
	Spec *specs.Spec
	// SystemdCgroup says that Spec.Linux.CgroupsPath has systemd's form
	// (slice:prefix:name) and that systemd makes the cgroup.
	SystemdCgroup bool
	// LogPath is the CRI log file; empty discards the output.
	LogPath string
	// Stdin keeps the standard input open for attached clients; otherwise it
	// is /dev/null. StdinOnce closes it when the first of them is done.
	Stdin, StdinOnce bool
	// Runtime is the program that runs the container; nil for the monitor itself.
	Runtime *Runtime
	// Attach are clients that get everything from the first byte on, at most
	// MaxAttach; they name no container.
	Attach []AttachRequest
	// Restore has the container go on from a checkpoint in place of running its
	// command. Spec is then what it has to conform to.
	Restore *Restore
}

// Restore says what a container goes on from: images that Dump has made.
type Restore = protocol.Restore

// CRIUOptions are for what CRIU cannot know whether it is wanted.
type CRIUOptions = protocol.CRIUOptions

// Runtime is the program of an OCI runtime. What it keeps is in a directory of its name, which
// is made as a container's ID is.
type Runtime = protocol.Runtime

// MaxAttach is how many clients can be attached by the start itself.
const MaxAttach = protocol.MaxAttach

// Started tells of a process that runs.
type Started struct {
	Pid       int
	StartedAt time.Time
	// Ended has for each client of StartRequest.Attach the channel that is
	// closed when its session has ended.
	Ended []<-chan struct{}
}

// Container is one entry of List.
type Container struct {
	ID        string
	Pid       int
	StartedAt time.Time
	// Exit is nil while the container runs.
	Exit *Exit
}

// Exit tells how a container or an exec'ed process ended.
type Exit struct {
	// ID is the container's.
	ID string
	// Code is the exit code; 128+n for one that signal n ended.
	Code     int
	ExitedAt time.Time
	// OOMKilled says that the kernel's OOM killer was at work in the
	// container's cgroup.
	OOMKilled bool
	// Unknown says that nobody could be asked for the code, for the Reason
	// given: the monitor was gone at that time and the kernel is older than
	// Linux 6.15. Code is then 255.
	Unknown bool
	Reason  string
}

// ExecRequest describes one more process in a running container.
type ExecRequest struct {
	ContainerID string
	Process     *specs.Process
	// Stdin, Stdout and Stderr are the ends the process gets; they stay the
	// caller's to close. Nil is /dev/null. They are unused with
	// Process.Terminal.
	Stdin, Stdout, Stderr *os.File
}

// AttachRequest asks for the streams of a running container.
type AttachRequest struct {
	ContainerID string
	// Stdin is read and forwarded; Stdout and Stderr get what the container
	// writes from now on (with a terminal everything goes to Stdout). All are
	// pipes or sockets, may be nil, and stay the caller's to close.
	Stdin, Stdout, Stderr *os.File
}

// PodInitRequest describes the init process of a pod whose containers share
// one PID namespace.
type PodInitRequest struct {
	// ID is in the same name space as those of containers.
	ID string
	// IPC, UTS and Net are paths of namespaces to join; empty ones are the
	// node's.
	IPC, UTS, Net string
	// User is the path of the user namespace that is to own the PID namespace;
	// empty for the node's.
	User string
	// Label is the SELinux label of the process; empty for the monitor's.
	Label string
	// CgroupsPath is the cgroup of the process, in the form of
	// Spec.Linux.CgroupsPath; empty leaves it in the monitor's.
	CgroupsPath   string
	SystemdCgroup bool
}

// Info describes the monitor that runs.
type Info struct {
	Pid        int
	Version    string
	Protocol   int
	Containers int
	StartedAt  time.Time
}
