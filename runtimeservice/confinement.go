package runtimeservice

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// confine sees to it that the AppArmor profile of the specification is loaded, and
// sets the classes that annotations ask for.
func (s *Service) confine(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig, ociSpec *specs.Spec) error {
	if profile := ociSpec.Process.ApparmorProfile; profile != "" && s.opts.AppArmor != nil {
		if err := s.opts.AppArmor.Require(ctx, profile); err != nil {
			return fmt.Errorf("config.linux.security_context.apparmor: %w", err)
		}
	}
	if s.opts.Classes == nil {
		return nil
	}
	return s.opts.Classes.Apply(ociSpec, config.GetMetadata().GetName(), config.GetAnnotations(), sb.config.GetAnnotations())
}
