// Package spec turns what the Container Runtime Interface asks of a container,
// together with its image and its mounted root file system, into an OCI runtime
// specification (runtime-spec v1.3).
//
// Build is the entry point for a new container, ExecProcess for a process in a
// running one, LinuxResources for a change of limits; RenderResolvConf and
// RenderHostname write the files that all containers of a pod share. What the
// machine can do (its cgroup version, the capabilities and limits that the
// daemon itself has) is a Host, found once by DetectHost.
//
// Nothing that an image says becomes control data: of its configuration only
// user, environment, entry point, command, working directory, volumes and stop
// signal are read, and its files only to look up users and groups.
package spec

import (
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is all that Build needs to know of one container.
type Input struct {
	// ID is the container's ID.
	ID string
	// Sandbox is the configuration that the pod was started with. It decides
	// about the namespaces that belong to the pod: network, IPC, host name.
	Sandbox *runtimeapi.PodSandboxConfig
	// Container is the configuration of the container itself.
	Container *runtimeapi.ContainerConfig
	// Image is the image's configuration; nil stands for an empty one.
	Image *ocispec.Image
	// Rootfs is the mounted root file system, an absolute path.
	Rootfs string
	// Namespaces are the paths to join: the pod's pinned network, IPC and UTS
	// namespaces, its PID namespace if it shares one, and for
	// NamespaceMode_TARGET the target's. A path that the request's modes do not
	// ask for is not used; one they ask for and that is absent is an error.
	Namespaces map[specs.LinuxNamespaceType]string
	// PodFiles are the files that all containers of the pod share.
	PodFiles PodFiles
	// ImageMounts are the images of the request's mounts, by the mount's index.
	ImageMounts map[int]ImageMount
	// Volumes are the container's own, at destinations that ImageVolumes gave.
	Volumes []Volume
	// CgroupsPath is the container's cgroup as CgroupsPath gives it.
	CgroupsPath string
	// ProcessLabel and FileLabel are the container's SELinux labels; "" for none.
	ProcessLabel, FileLabel string
	// Defaults are what the configuration says for that which a request leaves
	// open.
	Defaults Defaults
	// Host is what the machine and the daemon on it can do.
	Host *Host
}

// PodFiles are host paths of what the sandbox provides for its containers; an
// empty one is not mounted.
type PodFiles struct {
	ResolvConf string
	Hostname   string
	// Shm is the directory where the pod's shared memory is mounted.
	Shm string
}

// Defaults hold for what a request does not say. The zero value is usable: a nil
// list stands for the package's own (DefaultCapabilities, DefaultMaskedPaths,
// DefaultReadonlyPaths), an empty one for none.
type Defaults struct {
	// Capabilities of a container that neither adds nor drops any.
	Capabilities []string
	// Env comes before the image's, "NAME=value".
	Env []string
	// MaskedPaths and ReadonlyPaths hold for a request without a security
	// context. One with a security context says itself what to hide.
	MaskedPaths   []string
	ReadonlyPaths []string
	// SeccompUnset is the profile of a request without one. The CRI text says
	// unconfined, which is this field's zero value.
	SeccompUnset SeccompDefault
	// AppArmorProfile is the name of the loaded profile for containers that do
	// not choose one, on nodes with AppArmor; "" for none.
	AppArmorProfile string
	// Rlimits of every container, clamped to the daemon's own hard limits where
	// it may not raise them.
	Rlimits []specs.POSIXRlimit
	// PidsLimit is the most processes a container may have; 0 for no limit. CRI
	// has no field for it: the kubelet sets it on the pod's cgroup.
	PidsLimit int64
	// Annotations are the names of the pod's and the container's annotations
	// that are passed on to the OCI specification; one that ends in "*" stands
	// for all that begin so. Runtimes act on some annotations, so the default is
	// none.
	Annotations []string
	// SeccompFile is a file on the node, in place of the default profile; "" for
	// none.
	SeccompFile string
	// PrivilegedWithoutHostDevices gives privileged containers only the devices
	// that they ask for.
	PrivilegedWithoutHostDevices bool
	// CgroupWritable lets a container write to its own cgroup, where it has a
	// cgroup namespace.
	CgroupWritable bool
	// ReadonlyRootfs makes every root file system read-only.
	ReadonlyRootfs bool
}

// SeccompDefault is the seccomp profile for requests that name none.
type SeccompDefault string

const (
	// SeccompUnconfined filters nothing.
	SeccompUnconfined SeccompDefault = ""
	// SeccompRuntimeDefault is the profile of moby/profiles.
	SeccompRuntimeDefault SeccompDefault = "RuntimeDefault"
)

// Resolved is what Build had to find out and what a container's status shows.
type Resolved struct {
	// User are the IDs that the first process starts with.
	User *runtimeapi.ContainerUser
	// StopSignal asks the container to end: the request's, else the image's,
	// else SIGTERM.
	StopSignal syscall.Signal
	// Notes tell a person what the container does not get as it was asked for
	// because the daemon itself lacks the right, such as a lower OOM score.
	Notes []string
	// Mounts are the request's mounts, as ContainerStatus lists them.
	Mounts []*runtimeapi.Mount
}
