package runtimeservice

import (
	"context"
	"net/netip"
	"os"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/runtimeservice/handlers"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/selinux"
)

// Images finds the image of a container.
type Images interface {
	// Image returns the ID and the configuration of what ref names: a tag, a
	// digest, an ID or the beginning of one. ErrNotFound if there is none.
	Image(ctx context.Context, ref string) (id string, config *ocispec.Image, err error)
	// Admit returns nil if pods of the namespace may use the image, which the pod
	// calls name.
	Admit(ctx context.Context, image, name, namespace string) error
	// ImageStatus answers the CRI call of that name; Image is nil where there
	// is none.
	ImageStatus(ctx context.Context, spec *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error)
}

// RootFilesystems makes the root file systems of containers. All methods but
// RootfsUsage are idempotent.
type RootFilesystems interface {
	// MountRootfs mounts one for the container and holds its layers until
	// RemoveRootfs. All files show the SELinux label unless it is empty. With userns,
	// the path of a user namespace, they belong to the IDs of that one.
	MountRootfs(ctx context.Context, containerID, imageID, mountpoint, label, userns string) error
	// ProbeUserNamespaces says what is missing for root file systems of the user
	// namespace at that path.
	ProbeUserNamespaces(userns string) error
	// UnmountRootfs unmounts it and keeps what was written.
	UnmountRootfs(ctx context.Context, containerID string) error
	// RemoveRootfs unmounts it and removes what was written.
	RemoveRootfs(ctx context.Context, containerID string) error
	// RootfsUsage tells what was written, without a walk.
	RootfsUsage(ctx context.Context, containerID string) (bytes, inodes uint64, err error)
	// Rootfs returns the containers that have one.
	Rootfs(ctx context.Context) ([]string, error)
}

// Volumes gives containers directories beside their root file systems, until
// RemoveRootfs.
type Volumes interface {
	// MountImage mounts an image read-only for the container and returns where; all
	// files show the label unless it is empty, and belong to the IDs of the user
	// namespace at the path userns unless that is empty. It is idempotent; ErrNotFound where
	// there is no such image.
	MountImage(ctx context.Context, containerID, image, label, userns string) (string, error)
	// MakeVolumes makes a directory for each path of the container's mounted root
	// file system, filled with what is there, and returns where.
	MakeVolumes(ctx context.Context, containerID string, paths []string) ([]string, error)
}

// Devices edits specifications for devices of the Container Device Interface.
type Devices interface {
	// Inject edits the specification in place; ErrNotFound names a device that
	// nothing describes.
	Inject(ctx context.Context, s *specs.Spec, devices []string) error
}

// AppArmor knows the profiles of the kernel.
type AppArmor interface {
	// Require fails unless a profile of that name is loaded: ErrNotFound.
	Require(ctx context.Context, profile string) error
}

// Labels gives pods and containers their SELinux labels, and holds the level of each
// until Release: package selinux.
type Labels interface {
	// Pod and Container choose labels; those of a container are its pod's but for
	// what it asks for.
	Pod(id string, asked *runtimeapi.SELinuxOption) (selinux.Labels, error)
	Container(id string, pod selinux.Labels, asked *runtimeapi.SELinuxOption) (selinux.Labels, error)
	// Hold says what a pod or container of the last run has.
	Hold(id string, labels selinux.Labels)
	// Release is idempotent.
	Release(id string)
	// Relabel labels the files of a volume, a path without links; InvalidArgument for
	// what is no volume.
	Relabel(ctx context.Context, path, label string) error
}

// Classes are those of cache, memory bandwidth and block I/O that the node has.
type Classes interface {
	// Apply sets in the specification what the annotations of a container and its
	// pod ask for.
	Apply(s *specs.Spec, container string, containerAnnotations, podAnnotations map[string]string) error
	// RDT and BlockIO are the specification of a class; ErrNotFound names one that
	// is not defined.
	RDT(class string) (*specs.LinuxIntelRdt, error)
	BlockIO(class string) (*specs.LinuxBlockIO, error)
}

// Network attaches pods to the node's network.
type Network interface {
	// Attach connects the pod. What it needs for Detach is on record before
	// anything is done; after an error nothing is left but perhaps that debt.
	Attach(ctx context.Context, pod cni.Pod) (*cni.Attachment, error)
	// Detach takes the pod off the network; idempotent. After an error it
	// stays a debt that the network pays by itself.
	Detach(ctx context.Context, podID string) error
	// Release says that the pod is gone for good.
	Release(ctx context.Context, podID string)
	// Pods returns those that are attached or still owe the network something.
	Pods() ([]string, error)
	Status() cni.Status
	// SetPodCIDRs says which addresses the node's pods have; idempotent.
	SetPodCIDRs(ctx context.Context, prefixes []netip.Prefix) error
}

// Handlers knows the ways in which containers can be run: package handlers.
type Handlers interface {
	// Resolve returns the name of the handler that a pod asks for.
	Resolve(name string) (string, error)
	// Find returns a handler that can be used. It waits for its program alone.
	Find(ctx context.Context, name string) (handlers.Handler, error)
	// List returns all handlers, the default one first under the empty name. It
	// waits for nothing.
	List() []handlers.Handler
}

// Processes runs containers: the client of berth-monitor.
type Processes interface {
	Connect(ctx context.Context) error
	List(ctx context.Context) ([]monitor.Container, error)
	Info(ctx context.Context) (monitor.Info, error)
	StartPodInit(ctx context.Context, req monitor.PodInitRequest) (monitor.Started, error)
	Containers
	Streams
	Checkpoints
}

// Containers is the part of Processes that a container's life needs. All calls
// name the container; Start and Delete are idempotent.
type Containers interface {
	Start(ctx context.Context, req monitor.StartRequest) (monitor.Started, error)
	Signal(ctx context.Context, id string, signal syscall.Signal, all bool) error
	Update(ctx context.Context, id string, resources *specs.LinuxResources) error
	Delete(ctx context.Context, id string) error
	ReopenLog(ctx context.Context, id string) error
}

// Streams is the part of Processes that deals with a running container's
// streams.
type Streams interface {
	// Exec starts a process. With Process.Terminal it also returns the master
	// of its terminal, which the caller closes.
	Exec(ctx context.Context, req monitor.ExecRequest) (Execution, *os.File, error)
	Attach(ctx context.Context, req monitor.AttachRequest) (<-chan struct{}, error)
	Resize(ctx context.Context, id string, width, height uint16) error
}

// Execution is a process beside a container's own.
type Execution interface {
	// Wait returns how the process ended.
	Wait(ctx context.Context) (monitor.Exit, error)
	// Kill kills it and all its descendants.
	Kill(ctx context.Context) error
	// Close gives up what is held for Wait.
	Close() error
}

// Namespaces makes and pins the namespaces of pods: package namespaces, or a
// fake.
type Namespaces interface {
	// Create makes the namespaces of the request and pins them in its
	// directory, all or none.
	Create(ctx context.Context, req namespaces.Request) (namespaces.Pins, error)
	// Pin pins one more, and returns the pin's path.
	Pin(ctx context.Context, dir string, kind namespaces.Kind, from string) (string, error)
	// OpenUser returns a descriptor of a new user namespace that nothing is in.
	OpenUser(mapping namespaces.UserMapping) (*os.File, error)
	// Find returns what is pinned in a directory.
	Find(dir string) namespaces.Pins
	// Remove takes all pins from the directory; idempotent.
	Remove(ctx context.Context, dir string) error
}

// kernelNamespaces is the Namespaces of package namespaces.
type kernelNamespaces struct{}

var _ Namespaces = kernelNamespaces{}

func (kernelNamespaces) Create(ctx context.Context, req namespaces.Request) (namespaces.Pins, error) {
	return namespaces.Create(ctx, req)
}

func (kernelNamespaces) Pin(ctx context.Context, dir string, kind namespaces.Kind, from string) (string, error) {
	return namespaces.Pin(ctx, dir, kind, from)
}

func (kernelNamespaces) OpenUser(mapping namespaces.UserMapping) (*os.File, error) {
	return namespaces.OpenUser(mapping)
}

func (kernelNamespaces) Find(dir string) namespaces.Pins { return namespaces.Find(dir) }

func (kernelNamespaces) Remove(ctx context.Context, dir string) error {
	return namespaces.Remove(ctx, dir)
}
