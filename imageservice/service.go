// Package imageservice keeps the images of a node: it pulls them from
// registries, unpacks their layers, names them, mounts root file systems made
// of them and removes what nothing needs any more.
package imageservice

import (
	"context"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options say where a Service keeps its state and how it behaves. Zero values
// mean the defaults.
type Options struct {
	// Root is the directory that survives a reboot, /var/lib/berth.
	Root string
	// CertsDirs hold <host>/hosts.toml, searched in order.
	CertsDirs []string
	// Platform is the one to choose from an index; the node's own by default.
	Platform *ocispec.Platform
	// Pinned are image names, with path.Match patterns, that are reported as
	// pinned, so that the kubelet does not collect them.
	Pinned []string
	// ParallelLayers bounds how many layers of one image are fetched and
	// unpacked at the same time.
	ParallelLayers int
	// StallTimeout ends a transfer that stays below the minimum progress for
	// this long.
	StallTimeout time.Duration
	// UsageInterval is the shortest time between two measurements of one
	// container's writable layer.
	UsageInterval time.Duration
	// UserAgent is sent to registries.
	UserAgent string
	Logger    *slog.Logger
}

// Service is the image service.
type Service struct{}

// New opens the store below Options.Root.
func New(o Options) (*Service, error) { return nil, errdefs.ErrNotImplemented }

// Run does the background work until ctx ends.
func (s *Service) Run(ctx context.Context) error { return errdefs.ErrNotImplemented }

// PullImage implements the CRI call and returns the image ID.
func (s *Service) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (string, error) {
	return "", errdefs.ErrNotImplemented
}

// ListImages implements the CRI call.
func (s *Service) ListImages(ctx context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return nil, errdefs.ErrNotImplemented
}

// ImageStatus implements the CRI call: an unknown image is no error.
func (s *Service) ImageStatus(ctx context.Context, spec *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	return nil, errdefs.ErrNotImplemented
}

// RemoveImage implements the CRI call; it is idempotent.
func (s *Service) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) error {
	return errdefs.ErrNotImplemented
}

// ImageFsInfo implements the CRI call.
func (s *Service) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return nil, errdefs.ErrNotImplemented
}

// Image returns the ID and the configuration of the image that ref names.
func (s *Service) Image(ctx context.Context, ref string) (string, *ocispec.Image, error) {
	return "", nil, errdefs.ErrNotImplemented
}

// MountRootfs mounts a root file system of an image; idempotent.
func (s *Service) MountRootfs(ctx context.Context, containerID, imageID, mountpoint string) error {
	return errdefs.ErrNotImplemented
}

// UnmountRootfs unmounts it and keeps what was written; idempotent.
func (s *Service) UnmountRootfs(ctx context.Context, containerID string) error {
	return errdefs.ErrNotImplemented
}

// RemoveRootfs unmounts it and removes what was written; idempotent.
func (s *Service) RemoveRootfs(ctx context.Context, containerID string) error {
	return errdefs.ErrNotImplemented
}

// RootfsUsage returns what a container's writable layer holds.
func (s *Service) RootfsUsage(ctx context.Context, containerID string) (bytes, inodes uint64, err error) {
	return 0, 0, errdefs.ErrNotImplemented
}

// Rootfs returns the IDs of the containers that have a root file system.
func (s *Service) Rootfs(ctx context.Context) ([]string, error) {
	return nil, errdefs.ErrNotImplemented
}

// Pull is a snapshot of a running pull.
type Pull struct {
	Ref     string // normalised name
	Started time.Time
	Stage   string // "resolve", "config", "layers", "commit"
	Layers  []LayerProgress
}

// LayerProgress is a snapshot of one layer of a running pull.
type LayerProgress struct {
	Digest   string // of the blob
	Size     int64  // bytes to fetch
	Fetched  int64  // bytes fetched so far
	Unpacked int64  // bytes of the tar stream unpacked so far
	Done     bool
	Shared   bool // was there already, or another pull fetches it
}

// Pulls returns snapshots of the running pulls, oldest first.
func (s *Service) Pulls() []Pull { return nil }
