package cri

import (
	"context"
	"io"
	"net/netip"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Sandboxes is the life cycle of pod sandboxes. StopPodSandbox and
// RemovePodSandbox are idempotent; an unknown ID may be nil or
// errdefs.ErrNotFound, the handlers answer success to both.
type Sandboxes interface {
	RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error)
	StopPodSandbox(ctx context.Context, id string) error
	RemovePodSandbox(ctx context.Context, id string) error
	PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error)
	ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)
	UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) error
	CheckpointPod(ctx context.Context, req *runtimeapi.CheckpointPodRequest) error
	RestorePod(ctx context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error)
}

// ContainerLifecycle takes containers from created to removed. StopContainer
// and RemoveContainer are idempotent as StopPodSandbox is. A timeout of 0 kills
// at once.
type ContainerLifecycle interface {
	CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error)
	StartContainer(ctx context.Context, id string) error
	StopContainer(ctx context.Context, id string, timeout time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	// CheckpointContainer takes the default timeout for 0.
	CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error
}

// Containers looks at containers and changes what can change while they run.
type Containers interface {
	ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error)
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) error
	ReopenContainerLog(ctx context.Context, id string) error
}

// SyncExecutor runs a command to its end. A timeout of 0 is none; after a
// timeout the error is context.DeadlineExceeded.
type SyncExecutor interface {
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error)
}

// Streams serves the sessions of the streaming server. ctx ends when the client
// is gone or the server stops. Resolve turns an ID or an unambiguous prefix
// into the whole ID of something that can take streams now. The error of Exec
// carries a non-zero exit status by a method ExitStatus() int.
type Streams interface {
	ResolveContainer(ctx context.Context, id string) (string, error)
	ResolveSandbox(ctx context.Context, id string) (string, error)
	Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	Attach(ctx context.Context, id string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error
}

// Stats measures containers and pods.
type Stats interface {
	ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error)
	ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error)
	PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error)
	ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error)
}

// Metrics are those that a kubelet passes on. The descriptors never change;
// every metric has one, and as many label values as that has keys.
type Metrics interface {
	MetricDescriptors() []*runtimeapi.MetricDescriptor
	PodSandboxMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error)
}

// Events calls listening, and hands every event that happens after its call
// began to send, in order, until ctx ends (nil), listening or send fails (its
// error) or the receiver is too slow (errdefs.ErrResourceExhausted).
type Events interface {
	StreamEvents(ctx context.Context, listening func() error, send func(*runtimeapi.ContainerEventResponse) error) error
}

// Node tells the state of the runtime and its network, and is told the addresses
// of the node's pods: one prefix of a family, or one of each.
type Node interface {
	RuntimeStatus(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error)
	SetPodCIDRs(ctx context.Context, prefixes []netip.Prefix) error
}

// Runtime is all that the RuntimeService needs.
type Runtime interface {
	Sandboxes
	ContainerLifecycle
	Containers
	SyncExecutor
	Streams
	Stats
	Metrics
	Events
	Node
}

// Images is all that the ImageService needs. An image that is not there is no
// error for ImageStatus (its Image is nil) and none for RemoveImage.
type Images interface {
	PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (string, error)
	ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error)
	ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error)
	RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error
	ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
}
