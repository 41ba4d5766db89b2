package runtimeservice

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/cdi"
)

// injectDevices edits the specification for the CDI devices that the container
// asks for.
func (s *Service) injectDevices(ctx context.Context, ociSpec *specs.Spec, config *runtimeapi.ContainerConfig) error {
	names, err := cdi.Devices(config)
	if err != nil || len(names) == 0 {
		return err
	}
	return s.injectNamedDevices(ctx, ociSpec, names)
}

// injectNamedDevices is injectDevices for names that come from somewhere else
// than the request.
func (s *Service) injectNamedDevices(ctx context.Context, ociSpec *specs.Spec, names []string) error {
	if s.opts.Devices == nil {
		return fmt.Errorf("CDI devices %q: CDI is turned off by runtime.cdiSpecDirs: %w", names, errdefs.ErrFailedPrecondition)
	}
	return s.opts.Devices.Inject(ctx, ociSpec, names)
}
