package runtimeservice

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/namespaces"
)

// invalid is an ErrInvalidArgument that begins with the path of the field at
// fault.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// maxPort is the highest port of TCP, UDP and SCTP.
const maxPort = 65535

// requireCleanPath refuses a path that is not absolute, or not the plain one.
func requireCleanPath(field, path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return invalid(field, "%q is not an absolute path without detours", path)
	}
	return nil
}

// validateSandbox finds what can be found without doing anything. Fields that
// hold for the process of a sandbox (its user, seccomp profile, read-only root)
// are not wrong and have no effect: there is no such process, and containers
// carry their own.
func validateSandbox(config *runtimeapi.PodSandboxConfig) error {
	meta := config.GetMetadata()
	switch {
	case config == nil:
		return invalid("config", "is absent")
	case meta == nil:
		return invalid("config.metadata", "is absent")
	case meta.GetName() == "":
		return invalid("config.metadata.name", "is empty")
	case config.GetWindows() != nil:
		return invalid("config.windows", "this is Linux")
	}
	if dir := config.GetLogDirectory(); dir != "" && !filepath.IsAbs(dir) {
		return invalid("config.log_directory", "%q is not an absolute path", dir)
	}
	security := config.GetLinux().GetSecurityContext()
	if security.GetRunAsGroup() != nil && security.GetRunAsUser() == nil {
		return invalid("config.linux.security_context.run_as_group", "is set without run_as_user")
	}
	if err := validateNamespaceOptions(security.GetNamespaceOptions()); err != nil {
		return err
	}
	options := security.GetNamespaceOptions()
	ownNetwork := options.GetNetwork() != runtimeapi.NamespaceMode_NODE
	ownIPC := options.GetIpc() != runtimeapi.NamespaceMode_NODE
	if err := namespaces.ValidateSysctls(config.GetLinux().GetSysctls(), ownNetwork, ownIPC); err != nil {
		return fmt.Errorf("config.linux.sysctls: %w", err)
	}
	return validatePorts(config.GetPortMappings())
}

func validateNamespaceOptions(options *runtimeapi.NamespaceOption) error {
	const field = "config.linux.security_context.namespace_options"
	for name, mode := range map[string]runtimeapi.NamespaceMode{
		"network": options.GetNetwork(), "pid": options.GetPid(), "ipc": options.GetIpc(),
	} {
		switch mode {
		case runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE:
		case runtimeapi.NamespaceMode_CONTAINER:
			// Of the network and the IPC namespace a sandbox makes one for all; a
			// container can still keep its own.
		case runtimeapi.NamespaceMode_TARGET:
			return invalid(field+"."+name, "TARGET is for containers")
		default:
			return invalid(field+"."+name, "unknown mode %d", mode)
		}
	}
	return validateUserNamespace(field+".userns_options", options.GetUsernsOptions())
}

func validatePorts(mappings []*runtimeapi.PortMapping) error {
	for i, m := range mappings {
		field := fmt.Sprintf("config.port_mappings[%d]", i)
		if _, known := runtimeapi.Protocol_name[int32(m.GetProtocol())]; !known {
			return invalid(field+".protocol", "unknown protocol %d", m.GetProtocol())
		}
		if m.GetHostPort() < 0 || m.GetHostPort() > maxPort {
			return invalid(field+".host_port", "%d is not a port", m.GetHostPort())
		}
		// A container port matters only if the host's is mapped to it.
		if m.GetHostPort() > 0 && (m.GetContainerPort() < 1 || m.GetContainerPort() > maxPort) {
			return invalid(field+".container_port", "%d is not a port", m.GetContainerPort())
		}
	}
	return nil
}

// validateContainer finds what package spec does not look at.
func validateContainer(sb *sandbox, config *runtimeapi.ContainerConfig) error {
	switch {
	case config == nil:
		return invalid("config", "is absent")
	case config.GetMetadata() == nil:
		return invalid("config.metadata", "is absent")
	case config.GetMetadata().GetName() == "":
		return invalid("config.metadata.name", "is empty")
	case config.GetImage().GetImage() == "":
		return invalid("config.image.image", "is empty")
	case config.GetWindows() != nil:
		return invalid("config.windows", "this is Linux")
	}
	privileged := config.GetLinux().GetSecurityContext().GetPrivileged()
	if privileged && !sb.config.GetLinux().GetSecurityContext().GetPrivileged() {
		return invalid("config.linux.security_context.privileged", "the sandbox was not announced to hold privileged containers")
	}
	return nil
}

// logPath is the host path of a container's log; empty if there is none. It
// never leaves the sandbox's log directory.
func logPath(sb *sandbox, config *runtimeapi.ContainerConfig) (string, error) {
	dir, path := sb.config.GetLogDirectory(), config.GetLogPath()
	if path == "" {
		return "", nil
	}
	if !filepath.IsLocal(path) {
		return "", invalid("config.log_path", "%q is not a path within the sandbox's log directory", path)
	}
	if dir == "" {
		return "", nil
	}
	return filepath.Join(dir, path), nil
}
