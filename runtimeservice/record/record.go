// Package record keeps what the runtime must remember of sandboxes and
// containers: a file each, to which every change appends one line of JSON with a
// version and a checksum. The last whole line is the record.
//
// So a reader (the daemon's next start, after a kill -9 at any instruction)
// finds the record before a change or after it: a line that was cut off fails
// its checksum and is dropped. Appending costs a twentieth of replacing the
// file, and unlike a rename without a sync it never leaves less than was there.
//
// A change is not synced to disk before the call that asked for it is answered:
// what a sandbox consists of (namespaces, mounts, processes) does not outlive a
// power loss either. Store.Run syncs within a second. After a power loss the last
// changes, or a whole record, can be missing; the boot ID has changed then, all
// sandboxes are stopped, and whatever has no record is removed at start. A file
// without any whole line is set aside.
package record

import "time"

// State is how far a sandbox or a container has come, as far as the next start
// needs to know. The finer state (does it run?) is asked of the monitor and of
// the kernel.
type State string

const (
	// Creating: the record was written first; what else exists is to be undone.
	Creating State = "creating"
	// Ready: the sandbox is up. Created: the container can be started.
	Ready   State = "ready"
	Created State = "created"
	// Running: the container was started.
	Running State = "running"
	// Stopped: the sandbox's resources are given back. Exited: the container's
	// process has ended and its end is in the record.
	Stopped State = "stopped"
	Exited  State = "exited"
	// Removing: what is left goes, at the next start if not before.
	Removing State = "removing"
)

// Sandbox is the record of a pod sandbox.
type Sandbox struct {
	ID        string `json:"id"`
	State     State  `json:"state"`
	BootID    string `json:"bootID"`
	CreatedAt int64  `json:"createdAt"`
	// Delivered is set once a caller has had the ID as an answer.
	Delivered bool `json:"delivered,omitempty"`
	// Restoring is set as long as RestorePod makes the sandbox and its containers.
	Restoring bool `json:"restoring,omitempty"`
	// Handler is the one that was asked for, Runtime the one that this came to.
	Handler string `json:"handler,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	// Config is the runtime.v1.PodSandboxConfig as it came, in protobuf's wire
	// format, which keeps fields that this version does not know.
	Config []byte `json:"config"`
	// Overhead and Resources are the runtime.v1.LinuxContainerResources of the
	// pod's last update; absent as long as those of Config hold.
	Overhead  []byte `json:"overhead,omitzero"`
	Resources []byte `json:"resources,omitzero"`
	// CgroupParent is the cgroup under which the containers' cgroups are made.
	CgroupParent string `json:"cgroupParent"`
	// ProcessLabel and FileLabel are the pod's SELinux labels; its level is held as
	// long as there is the record.
	ProcessLabel string `json:"processLabel,omitempty"`
	FileLabel    string `json:"fileLabel,omitempty"`
	// Namespaces are the pinned namespaces by OCI name.
	Namespaces map[string]string `json:"namespaces,omitempty"`
	// PodInit is true where the pod has an init process, under the sandbox's ID.
	PodInit bool `json:"podInit,omitempty"`
	// InitPid is the process ID of that init.
	InitPid int `json:"initPid,omitempty"`
	// NetworkAttached is true from before the network's ADD until its DEL is
	// done or is a debt of package cni.
	NetworkAttached bool     `json:"networkAttached,omitempty"`
	IPs             []string `json:"ips,omitempty"`
	// CNIResult is the result of the last plugin, for `inspect`.
	CNIResult []byte `json:"cniResult,omitempty"`
	// Released is true when nothing is left but the record and the containers.
	Released bool `json:"released,omitempty"`
	// Reason says why a sandbox is not ready.
	Reason string `json:"reason,omitempty"`
	// Start is how the pod came up, with the pulls for it.
	Start []Step `json:"start,omitempty"`
}

// Step is a stage of a start.
type Step struct {
	Stage string `json:"stage"`
	// Image is that of a pull.
	Image   string        `json:"image,omitempty"`
	BeganAt int64         `json:"beganAt"`
	Took    time.Duration `json:"took"`
	// Error is why it failed; then Attempts tells how often in a row, and BeganAt, Took
	// and Error are those of the last time.
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
	// Container is the one that could not be created, in the record of its pod.
	Container string `json:"container,omitempty"`
}

// Container is the record of a container.
type Container struct {
	ID        string `json:"id"`
	SandboxID string `json:"sandboxID"`
	State     State  `json:"state"`
	BootID    string `json:"bootID"`
	CreatedAt int64  `json:"createdAt"`
	Delivered bool   `json:"delivered,omitempty"`
	// Config is the runtime.v1.ContainerConfig as it came.
	Config []byte `json:"config"`
	// Resources is the runtime.v1.LinuxContainerResources of the last update;
	// absent as long as those of Config hold.
	Resources []byte `json:"resources,omitempty"`
	// Mounts are runtime.v1.Mount messages as the status shows them.
	Mounts [][]byte `json:"mounts,omitempty"`
	// User is the runtime.v1.ContainerUser of the first process.
	User    []byte `json:"user,omitempty"`
	ImageID string `json:"imageID"`
	// ImageName is what a person calls the image, ImageRef its digest in a
	// registry if it has one.
	ImageName  string `json:"imageName"`
	ImageRef   string `json:"imageRef"`
	LogPath    string `json:"logPath,omitempty"`
	CgroupPath string `json:"cgroupPath"`
	StopSignal int    `json:"stopSignal,omitempty"`
	// ProcessLabel and FileLabel are the container's SELinux labels.
	ProcessLabel string `json:"processLabel,omitempty"`
	FileLabel    string `json:"fileLabel,omitempty"`
	// Restore is true for a container that goes on from a checkpoint when it is started.
	Restore bool `json:"restore,omitempty"`
	// RestoreOptions are those for CRIU, by name.
	RestoreOptions map[string]string `json:"restoreOptions,omitempty"`

	Pid        int    `json:"pid,omitempty"`
	StartedAt  int64  `json:"startedAt,omitempty"`
	FinishedAt int64  `json:"finishedAt,omitempty"`
	ExitCode   int32  `json:"exitCode,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Message    string `json:"message,omitempty"`
	// Start is how the container was created and started.
	Start []Step `json:"start,omitempty"`
}
