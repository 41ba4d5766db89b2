package runtimeservice

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/handlers"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// BuiltinFeatures are those of Berth's own runtime on this kernel.
func BuiltinFeatures() handlers.Features {
	return handlers.Features{OCIVersion: specs.Version, RecursiveReadOnlyMounts: hasMountSetattr(), UserNamespaces: true, ExecCgroup: true}
}

// hasMountSetattr tells whether the kernel can make mounts read-only with all
// that is below them (Linux 5.12).
func hasMountSetattr() bool {
	err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{})
	return err != unix.ENOSYS
}

// sandboxHandler is the handler that a sandbox is to be made for.
func (s *Service) sandboxHandler(ctx context.Context, config *runtimeapi.PodSandboxConfig, name string) (handlers.Handler, error) {
	h, err := s.opts.Handlers.Find(ctx, name)
	if err != nil {
		return h, err
	}
	userns := config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	if userns != nil && userns.GetMode() == runtimeapi.NamespaceMode_POD && h.External() && !h.UserNamespaces {
		return h, fmt.Errorf("config.linux.security_context.namespace_options.userns_options: handler %q (%s) cannot give user namespaces: %w", h.Name, h.Path, errdefs.ErrFailedPrecondition)
	}
	return h, nil
}

// handlerOf is the handler of a sandbox, as it is now.
func (s *Service) handlerOf(ctx context.Context, rec *record.Sandbox) (handlers.Handler, error) {
	name := rec.Runtime
	if name == "" {
		name = handlers.Builtin // the only one when the sandbox was made
	}
	return s.opts.Handlers.Find(ctx, name)
}

// checkHandler refuses a container that its handler cannot run as it asks.
func checkHandler(h handlers.Handler, config *runtimeapi.ContainerConfig) error {
	limit := config.GetLinux().GetResources().GetMemoryLimitInBytes()
	if limit > 0 && limit < h.MinMemory {
		return invalid("config.linux.resources.memory_limit_in_bytes", "%d is less than the %d that handler %q needs", limit, h.MinMemory, h.Name)
	}
	if !h.External() || h.RecursiveReadOnlyMounts {
		return nil
	}
	for i, m := range config.GetMounts() {
		if m.GetRecursiveReadOnly() {
			return fmt.Errorf("config.mounts[%d].recursive_read_only: handler %q (%s) cannot do it: %w", i, h.Name, h.Path, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// handlerDefaults are the defaults of the node with what a handler says of its own.
func handlerDefaults(d spec.Defaults, h handlers.Handler) spec.Defaults {
	if h.Annotations != nil {
		d.Annotations = h.Annotations
	}
	d.SeccompFile = h.SeccompProfile
	d.PrivilegedWithoutHostDevices = h.PrivilegedWithoutHostDevices
	d.CgroupWritable = h.CgroupWritable
	d.ReadonlyRootfs = h.ReadonlyRootfs
	return d
}

// monitorRuntime is the program for the monitor; nil for the monitor itself.
func (s *Service) monitorRuntime(h handlers.Handler) *monitor.Runtime {
	if !h.External() {
		return nil
	}
	return &monitor.Runtime{
		Name: h.Name, Path: h.Path, Args: h.Args, SystemdCgroup: s.opts.SystemdCgroup, ExecCgroup: h.ExecCgroup,
	}
}

// runtimeHandlers are the handlers as the CRI has them. A node that cannot do what a
// program could takes it from its features.
func (s *Service) runtimeHandlers(all []handlers.Handler) []*runtimeapi.RuntimeHandler {
	var list []*runtimeapi.RuntimeHandler
	for _, h := range all {
		list = append(list, &runtimeapi.RuntimeHandler{
			Name: h.Name,
			Features: &runtimeapi.RuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: h.RecursiveReadOnlyMounts,
				UserNamespaces:          s.userNamespaces == nil && h.UserNamespaces,
			},
		})
	}
	return list
}

// handlerInfo is a handler in the verbose answer of Status.
type handlerInfo struct {
	Name       string `json:"name"`
	Path       string `json:"path,omitempty"`
	Version    string `json:"version,omitempty"`
	OCIVersion string `json:"ociVersion,omitempty"`
	// Error is why no pod can be run by it.
	Error string `json:"error,omitempty"`
}

func describeHandlers(all []handlers.Handler) []handlerInfo {
	list := make([]handlerInfo, 0, len(all))
	for _, h := range all {
		info := handlerInfo{Name: h.Name, Path: h.Path, Version: h.Version, OCIVersion: h.OCIVersion}
		if h.Err != nil {
			info.Error = h.Err.Error()
		}
		list = append(list, info)
	}
	return list
}
