package spec

import (
	"path"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DefaultMaskedPaths hide what of /proc and /sys tells about the node or drives
// it.
func DefaultMaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// DefaultReadonlyPaths keep a container from changing the node through /proc.
func DefaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func privileged(c *runtimeapi.ContainerConfig) bool {
	return c.GetLinux().GetSecurityContext().GetPrivileged()
}

// checkPrivileged refuses a privileged container in a pod that did not announce
// one, which the CRI text demands.
func checkPrivileged(in *Input) error {
	if privileged(in.Container) && !in.Sandbox.GetLinux().GetSecurityContext().GetPrivileged() {
		return invalid(securityContextField+".privileged", "a privileged container in a pod that is not privileged")
	}
	return nil
}

// hiddenPaths gives the masked and the read-only paths. With a security context
// the request's lists hold as they are, also when empty: that is how a kubelet
// asks for procMount: Unmasked. A privileged container has neither.
func hiddenPaths(in *Input) (masked, readonly []string, err error) {
	sc := in.Container.GetLinux().GetSecurityContext()
	switch {
	case sc.GetPrivileged():
		return nil, nil, nil
	case sc != nil:
		masked, readonly = sc.GetMaskedPaths(), sc.GetReadonlyPaths()
	default:
		masked, readonly = in.Defaults.MaskedPaths, in.Defaults.ReadonlyPaths
		if masked == nil {
			masked = append(DefaultMaskedPaths(), in.Host.ThermalPaths...)
		}
		if readonly == nil {
			readonly = DefaultReadonlyPaths()
		}
	}
	if err := checkPaths(securityContextField+".masked_paths", masked); err != nil {
		return nil, nil, err
	}
	return masked, readonly, checkPaths(securityContextField+".readonly_paths", readonly)
}

func checkPaths(field string, paths []string) error {
	for i, p := range paths {
		if !path.IsAbs(p) || hasNUL(p) || path.Clean(p) == "/" {
			return invalid(field+"["+strconv.Itoa(i)+"]", "%q is not an absolute path below the root", p)
		}
	}
	return nil
}

// appArmorProfile gives the name of the profile to run under; "" is none. On a
// node without AppArmor only a profile asked for by name is an error.
func appArmorProfile(in *Input) (string, error) {
	sc := in.Container.GetLinux().GetSecurityContext()
	//lint:ignore SA1019 clients still send it
	old := sc.GetApparmorProfile()
	choice, err := chooseProfile(securityContextField+".apparmor", sc.GetApparmor(), securityContextField+".apparmor_profile", old)
	if err != nil {
		return "", err
	}
	if hasControl(choice.ref) {
		return "", invalid(choice.field, "%q holds a control character", choice.ref)
	}
	switch {
	case sc.GetPrivileged():
		return "", nil
	case choice.kind == runtimeapi.SecurityProfile_Localhost:
		if !in.Host.AppArmor {
			return "", precondition(choice.field, "profile %q on a node without AppArmor", choice.ref)
		}
		// Clients of earlier versions of the CRI put the kind in front of the name.
		return strings.TrimPrefix(choice.ref, "localhost/"), nil
	case choice.kind == runtimeapi.SecurityProfile_Unconfined && choice.set, !in.Host.AppArmor:
		return "", nil
	case choice.set && in.Defaults.AppArmorProfile == "":
		return "", precondition(choice.field, "this node has no default AppArmor profile")
	}
	return in.Defaults.AppArmorProfile, nil
}

// processLabel gives the SELinux label of the container's processes. A privileged one
// has what the policy makes of a process that the daemon starts (spc_t, or
// unconfined_t).
func processLabel(in *Input) string {
	if privileged(in.Container) {
		return ""
	}
	return in.ProcessLabel
}
