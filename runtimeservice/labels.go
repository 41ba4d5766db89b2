package runtimeservice

import (
	"context"
	"fmt"
	"path"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/selinux"
)

// labelSandbox writes the pod's SELinux labels to its record, and holds them until
// deleteSandboxRecord.
func (s *Service) labelSandbox(rec *record.Sandbox, config *runtimeapi.PodSandboxConfig) error {
	labels, err := s.opts.Labels.Pod(rec.ID, config.GetLinux().GetSecurityContext().GetSelinuxOptions())
	if err != nil {
		return fmt.Errorf("config.linux.security_context: %w", err)
	}
	rec.ProcessLabel, rec.FileLabel = labels.Process, labels.File
	return nil
}

// podInitLabel is the SELinux label of the pod's init. In a privileged pod it has none
// of its own, as privileged containers have none.
func podInitLabel(rec *record.Sandbox, config *runtimeapi.PodSandboxConfig) string {
	if config.GetLinux().GetSecurityContext().GetPrivileged() {
		return ""
	}
	return rec.ProcessLabel
}

// labelContainer does the same for a container.
func (s *Service) labelContainer(rec *record.Container, sb *sandbox, config *runtimeapi.ContainerConfig) error {
	pod := sb.rec.Load()
	labels, err := s.opts.Labels.Container(rec.ID, selinux.Labels{Process: pod.ProcessLabel, File: pod.FileLabel},
		config.GetLinux().GetSecurityContext().GetSelinuxOptions())
	if err != nil {
		return fmt.Errorf("config.linux.security_context: %w", err)
	}
	rec.ProcessLabel, rec.FileLabel = labels.Process, labels.File
	return nil
}

// relabelVolumes labels the files of those mounts that the request says so of, and
// of no others: a path of the node that a pod has mounted need not be the pod's.
func (s *Service) relabelVolumes(ctx context.Context, rec *record.Container, config *runtimeapi.ContainerConfig, ociSpec *specs.Spec) error {
	for i, m := range config.GetMounts() {
		if !m.GetSelinuxRelabel() {
			continue
		}
		if err := s.relabel(ctx, mountedAt(ociSpec, path.Clean(m.GetContainerPath())), rec.FileLabel); err != nil {
			return fmt.Errorf("config.mounts[%s].selinux_relabel: %w", strconv.Itoa(i), err)
		}
	}
	return nil
}

// relabel labels the files below a path of the node; "" is no label.
func (s *Service) relabel(ctx context.Context, source, label string) error {
	if label == "" {
		return nil
	}
	return operation.Do(ctx, stageRelabel, func(ctx context.Context) error {
		return abandonable(ctx, func() error { return s.opts.Labels.Relabel(ctx, source, label) })
	})
}

// mountedAt is the source of the mount at a destination: resolved, as it will be
// mounted.
func mountedAt(ociSpec *specs.Spec, destination string) string {
	for _, m := range ociSpec.Mounts {
		if m.Destination == destination {
			return m.Source
		}
	}
	return ""
}

// abandonable waits for f no longer than ctx allows: a look at a dead network mount
// can block for good.
func abandonable(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
