// Package runtimeservice decides what happens to pods and containers: it owns
// the life cycles of sandboxes and containers, their records on disk, their
// events and their statistics. It speaks the messages of the Container Runtime
// Interface, without its transport: package cri hands the calls in.
package runtimeservice

import (
	"context"
	"io"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Service is the runtime half of CRI.
type Service struct{}

func (s *Service) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	return "", errdefs.ErrNotImplemented
}
func (s *Service) StopPodSandbox(ctx context.Context, id string) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) RemovePodSandbox(ctx context.Context, id string) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *Service) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *Service) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	return "", errdefs.ErrNotImplemented
}
func (s *Service) StartContainer(ctx context.Context, id string) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) StopContainer(ctx context.Context, id string, timeout time.Duration) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) RemoveContainer(ctx context.Context, id string) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *Service) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *Service) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) ReopenContainerLog(ctx context.Context, id string) error {
	return errdefs.ErrNotImplemented
}

// ExecSync runs cmd in the container; timeout 0 means none. After a timeout the
// error is context.DeadlineExceeded.
func (s *Service) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error) {
	return nil, nil, 0, errdefs.ErrNotImplemented
}

// ResolveSandbox and ResolveContainer turn an ID or an unambiguous prefix into
// the whole ID of something that can take streams now (a ready sandbox, a
// running container); the handlers that prepare a streaming URL ask them.
func (s *Service) ResolveSandbox(ctx context.Context, id string) (string, error) {
	return "", errdefs.ErrNotImplemented
}
func (s *Service) ResolveContainer(ctx context.Context, id string) (string, error) {
	return "", errdefs.ErrNotImplemented
}

func (s *Service) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) Attach(ctx context.Context, id string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	return errdefs.ErrNotImplemented
}
func (s *Service) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *Service) ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *Service) PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *Service) ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return nil, errdefs.ErrNotImplemented
}

// StreamEvents hands every event from now on to send, in order, until ctx ends
// (nil) or send fails (its error) or the client is too slow (ErrResourceExhausted).
func (s *Service) StreamEvents(ctx context.Context, send func(*runtimeapi.ContainerEventResponse) error) error {
	return errdefs.ErrNotImplemented
}

func (s *Service) RuntimeStatus(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	return nil, errdefs.ErrNotImplemented
}
