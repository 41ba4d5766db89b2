// Package protocol is what berthd and berth-monitor say to each other.
//
// They talk over a stream socket in the monitor's directory. Each message is a
// frame: a fixed header, a JSON body and, as SCM_RIGHTS, file descriptors. A
// client begins with MethodHello, which fixes the version, and may then have
// any number of requests under way; responses come in any order. The monitor
// sends two kinds of frame by itself: FrameExit for an exit that nobody has
// acknowledged yet, and FrameGoAway before it re-executes itself.
package protocol

import (
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Version is that of the messages below. A monitor speaks exactly one; a client
// that meets another one upgrades the monitor in place.
const Version = 1

// SocketName and LockName are files in the monitor's directory.
const (
	SocketName = "monitor.sock"
	LockName   = "monitor.lock"
	LogName    = "monitor.log"
)

// Method names what a request asks for.
type Method uint8

// The numbers are part of the protocol and never get another meaning.
// MethodHello, MethodInfo and MethodUpgrade keep their bodies in every version,
// so that a client can replace a monitor of another one.
const (
	MethodHello Method = iota + 1
	MethodInfo
	MethodUpgrade
	MethodList
	MethodAdopt
	MethodAck
	MethodStart
	MethodStartPodInit
	MethodSignal
	MethodUpdate
	MethodDelete
	MethodReopenLog
	MethodExec
	MethodKillExec
	MethodAttach
	MethodResize
	MethodFetch
	MethodFreeze
	MethodDump
	MethodThaw
)

// Hello is the first request of a connection. With Own, in a second one sent
// when every container was fetched or adopted, the connection becomes the one
// that exits are told to; an earlier owner's connection is closed.
type Hello struct {
	Version int  `json:"version"`
	Own     bool `json:"own"`
}

// Info answers MethodHello and MethodInfo.
type Info struct {
	Pid        int       `json:"pid"`
	Program    string    `json:"program"`
	Version    int       `json:"version"`
	Containers int       `json:"containers"`
	StartedAt  time.Time `json:"startedAt"`
}

// Upgrade asks the monitor to re-execute itself with the program at Binary. The
// answer comes before it does.
type Upgrade struct {
	Binary string `json:"binary"`
}

// FDs tells which file descriptors of a container travel with a frame; they
// come in the order of the fields. With Console the terminal is sent once, as
// Stdout, and Stdin and Stderr are not.
type FDs struct {
	Pidfd   bool `json:"pidfd,omitempty"`
	Stdin   bool `json:"stdin,omitempty"`
	Stdout  bool `json:"stdout,omitempty"`
	Stderr  bool `json:"stderr,omitempty"`
	Console bool `json:"console,omitempty"`
}

// Count returns how many descriptors that is.
func (f FDs) Count() int {
	n := 0
	for _, has := range []bool{f.Pidfd, f.Stdin, f.Stdout, f.Stderr} {
		if has {
			n++
		}
	}
	return n
}

// Container is an entry of the answer to MethodList. Lost says that the
// monitor lacks its descriptors, and that a client that has them should send
// MethodAdopt.
type Container struct {
	ID        string    `json:"id"`
	Pid       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	Exit      *Exit     `json:"exit,omitempty"`
	Lost      bool      `json:"lost,omitempty"`
}

// List answers MethodList.
type List struct {
	Containers []Container `json:"containers"`
}

// Named is the request body of methods that need only a container: MethodDelete,
// MethodReopenLog, MethodAck, and MethodFetch, which is answered with a Started
// and its descriptors.
type Named struct {
	ID string `json:"id"`
}

// Adopt hands the descriptors of a container to a monitor that lost them.
type Adopt struct {
	ID  string `json:"id"`
	FDs FDs    `json:"fds"`
}

// Exit tells how a container ended; the body of FrameExit.
type Exit struct {
	ID        string    `json:"id"`
	Code      int       `json:"code"`
	ExitedAt  time.Time `json:"exitedAt"`
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Unknown   bool      `json:"unknown,omitempty"`
	Reason    string    `json:"reason,omitempty"`
}

// MaxAttach is how many clients a Start can bring.
const MaxAttach = MaxFDs / 4

// Start asks for a container to be created and started.
type Start struct {
	ID            string      `json:"id"`
	Spec          *specs.Spec `json:"spec"`
	SystemdCgroup bool        `json:"systemdCgroup,omitempty"`
	LogPath       string      `json:"logPath,omitempty"`
	Stdin         bool        `json:"stdin,omitempty"`
	StdinOnce     bool        `json:"stdinOnce,omitempty"`
	// Runtime runs the container; nil for the monitor itself.
	Runtime *Runtime `json:"runtime,omitempty"`
	// Attach are clients of the streams from the first byte on; their
	// descriptors come one client after the other. They name no container.
	Attach []Attach `json:"attach,omitempty"`
	// Restore has the container go on from a checkpoint in place of running its command.
	Restore *Restore `json:"restore,omitempty"`
}

// Restore says what a container goes on from.
type Restore struct {
	// Images is the directory of CRIU's images. Nothing is written there.
	Images string `json:"images"`
	// Work is an existing directory for CRIU's log.
	Work string `json:"work"`
	CRIUOptions
}

// CRIUOptions are for what CRIU cannot know whether it is wanted.
type CRIUOptions struct {
	// TCPEstablished keeps connections, FileLocks locks, and ExternalUnix sockets whose
	// other end is not in the container; without them their presence is an error.
	TCPEstablished bool `json:"tcpEstablished,omitempty"`
	FileLocks      bool `json:"fileLocks,omitempty"`
	ExternalUnix   bool `json:"externalUnix,omitempty"`
}

// Freeze asks that containers stand still, all or none, until MethodThaw with the same
// containers, the end of the connection, or the end of Longest.
type Freeze struct {
	IDs     []string      `json:"ids"`
	Longest time.Duration `json:"longest"`
	// Dump says that dumps are to follow: nothing is frozen where CRIU cannot be used.
	Dump bool `json:"dump,omitempty"`
}

// Frozen names those to let go on.
type Frozen struct {
	IDs []string `json:"ids"`
}

// Dump asks for the images of a frozen container, in an existing directory. The container
// stays, and stays frozen.
type Dump struct {
	ID     string `json:"id"`
	Images string `json:"images"`
	CRIUOptions
}

// Runtime is the program of an OCI runtime. Name is that of its directory of state
// in the monitor's, made as a container's ID is.
type Runtime struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// Args come before the command.
	Args []string `json:"args,omitempty"`
	// SystemdCgroup says that the program is to have systemd make the cgroups.
	SystemdCgroup bool `json:"systemdCgroup,omitempty"`
	// ExecCgroup says that its exec takes --cgroup.
	ExecCgroup bool `json:"execCgroup,omitempty"`
}

// StartPodInit asks for the init process of a pod.
type StartPodInit struct {
	ID            string `json:"id"`
	IPC           string `json:"ipc,omitempty"`
	UTS           string `json:"uts,omitempty"`
	Net           string `json:"net,omitempty"`
	User          string `json:"user,omitempty"`
	Label         string `json:"label,omitempty"`
	CgroupsPath   string `json:"cgroupsPath,omitempty"`
	SystemdCgroup bool   `json:"systemdCgroup,omitempty"`
}

// Started answers MethodStart and MethodStartPodInit, and comes with the
// descriptors that FDs lists.
type Started struct {
	Pid       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	FDs       FDs       `json:"fds"`
}

// Signal asks for a signal to the init process of a container or, with All, to
// every process of its cgroup.
type Signal struct {
	ID     string `json:"id"`
	Signal int    `json:"signal"`
	All    bool   `json:"all,omitempty"`
}

// Update asks for other limits; what is not set in Resources stays.
type Update struct {
	ID        string                `json:"id"`
	Resources *specs.LinuxResources `json:"resources"`
}

// Exec asks for one more process in a container. It comes with the descriptors
// for its standard streams that are true here, in that order, and then the
// write end of a pipe into which the monitor writes an Exit as JSON.
type Exec struct {
	ContainerID string         `json:"containerID"`
	Process     *specs.Process `json:"process"`
	Stdin       bool           `json:"stdin,omitempty"`
	Stdout      bool           `json:"stdout,omitempty"`
	Stderr      bool           `json:"stderr,omitempty"`
}

// Execed answers MethodExec and comes with a pidfd and, with Console, the
// master of the terminal.
type Execed struct {
	ExecID    string    `json:"execID"`
	Pid       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	Console   bool      `json:"console,omitempty"`
}

// KillExec ends an exec'ed process and everything it started.
type KillExec struct {
	ContainerID string `json:"containerID"`
	ExecID      string `json:"execID"`
}

// Attach asks for the streams of a container. It comes with the descriptors
// that are true here, in that order, and then with one that the monitor closes
// when the streams have ended.
type Attach struct {
	ContainerID string `json:"containerID,omitempty"`
	Stdin       bool   `json:"stdin,omitempty"`
	Stdout      bool   `json:"stdout,omitempty"`
	Stderr      bool   `json:"stderr,omitempty"`
}

// Count returns how many descriptors it comes with.
func (a Attach) Count() int {
	n := 1
	for _, has := range []bool{a.Stdin, a.Stdout, a.Stderr} {
		if has {
			n++
		}
	}
	return n
}

// Resize sets the size of a container's terminal.
type Resize struct {
	ID     string `json:"id"`
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// GoAway is the body of FrameGoAway: requests up to LastID have been answered,
// later ones have not been looked at and can be sent again.
type GoAway struct {
	LastID uint64 `json:"lastID"`
}
