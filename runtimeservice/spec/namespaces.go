package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const namespaceOptionsField = securityContextField + ".namespace_options"

// modes are the namespaces that a container is to live in.
type modes struct {
	network, ipc, pid runtimeapi.NamespaceMode
	// user is the pod's own user namespace; nil for the node's.
	user *runtimeapi.UserNamespace
}

// namespaceModes reads a container's namespace modes. Network and IPC namespaces
// are the pod's: its configuration decides, and a container without options has
// what the pod has. A container may keep to itself more than its pod does, but
// it cannot have the node's namespace in a pod that has its own.
func namespaceModes(sandbox *runtimeapi.PodSandboxConfig, sc *runtimeapi.LinuxContainerSecurityContext) (modes, error) {
	pod := sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions()
	own := sc.GetNamespaceOptions()
	user, err := userNamespace(pod, own)
	if err != nil {
		return modes{}, err
	}
	if own == nil {
		own = pod
	}
	m := modes{pid: own.GetPid(), user: user}
	if m.network, err = sharedMode(namespaceOptionsField+".network", pod.GetNetwork(), own.GetNetwork()); err != nil {
		return m, err
	}
	if m.ipc, err = sharedMode(namespaceOptionsField+".ipc", pod.GetIpc(), own.GetIpc()); err != nil {
		return m, err
	}
	if _, known := runtimeapi.NamespaceMode_name[int32(m.pid)]; !known {
		return m, invalid(namespaceOptionsField+".pid", "unknown mode %d", m.pid)
	}
	if m.pid == runtimeapi.NamespaceMode_TARGET && own.GetTargetId() == "" {
		return m, invalid(namespaceOptionsField+".target_id", "mode TARGET without a container")
	}
	return m, nil
}

// sharedMode combines the pod's mode with the container's for a namespace that
// belongs to the pod.
func sharedMode(field string, pod, own runtimeapi.NamespaceMode) (runtimeapi.NamespaceMode, error) {
	switch own {
	case runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER:
	case runtimeapi.NamespaceMode_NODE:
		if pod != own {
			return own, invalid(field, "mode NODE in a pod that has a namespace of its own")
		}
	case runtimeapi.NamespaceMode_TARGET:
		return own, invalid(field, "mode TARGET: containers of a pod share this namespace, only PID namespaces have a target")
	default:
		return own, invalid(field, "unknown mode %d", own)
	}
	if pod == runtimeapi.NamespaceMode_NODE {
		return pod, nil
	}
	return own, nil
}

// ociNamespaces lists the namespaces to make or to join. One that is not listed
// is the node's.
func ociNamespaces(m modes, paths map[specs.LinuxNamespaceType]string, cgroup bool) ([]specs.LinuxNamespace, error) {
	ns := make([]specs.LinuxNamespace, 0, 7)
	ns = append(ns, specs.LinuxNamespace{Type: specs.MountNamespace})
	if m.user != nil {
		if paths[specs.UserNamespace] == "" {
			return nil, precondition(namespaceOptionsField+".userns_options", "the pod has no user namespace to join")
		}
		ns = append(ns, specs.LinuxNamespace{Type: specs.UserNamespace, Path: paths[specs.UserNamespace]})
	}
	add := func(field string, t specs.LinuxNamespaceType, mode runtimeapi.NamespaceMode) error {
		switch mode {
		case runtimeapi.NamespaceMode_NODE:
			return nil
		case runtimeapi.NamespaceMode_CONTAINER:
			ns = append(ns, specs.LinuxNamespace{Type: t})
			return nil
		}
		if paths[t] == "" {
			return precondition(field, "the pod or the target has no %s namespace to join", t)
		}
		ns = append(ns, specs.LinuxNamespace{Type: t, Path: paths[t]})
		return nil
	}
	if err := add(namespaceOptionsField+".network", specs.NetworkNamespace, m.network); err != nil {
		return nil, err
	}
	if err := add(namespaceOptionsField+".ipc", specs.IPCNamespace, m.ipc); err != nil {
		return nil, err
	}
	if err := add(namespaceOptionsField+".pid", specs.PIDNamespace, m.pid); err != nil {
		return nil, err
	}
	// The host name goes with the network: a pod on the node's network has the
	// node's name. The UTS namespace is always the pod's, never one container's.
	uts := runtimeapi.NamespaceMode_POD
	if m.network == runtimeapi.NamespaceMode_NODE {
		uts = runtimeapi.NamespaceMode_NODE
	}
	if err := add(namespaceOptionsField+".network", specs.UTSNamespace, uts); err != nil {
		return nil, err
	}
	if cgroup {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns, nil
}
