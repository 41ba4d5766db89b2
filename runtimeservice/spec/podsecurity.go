package spec

import (
	"context"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const podSecurityField = "config.linux.security_context"

// CheckPodSeccomp checks the seccomp profile that a pod asks for its sandbox, as
// Build does for a container: a profile of the node has to be there, and to be one.
// It is applied to no process. A sandbox has one at most, the init of a PID
// namespace that its containers share, and that one's own filter allows less than
// any profile with which it could work.
func CheckPodSeccomp(ctx context.Context, host *Host, sandbox *runtimeapi.PodSandboxConfig) error {
	sc := sandbox.GetLinux().GetSecurityContext()
	//lint:ignore SA1019 clients still send it
	old := sc.GetSeccompProfilePath()
	choice, err := chooseProfile(podSecurityField+".seccomp", sc.GetSeccomp(), podSecurityField+".seccomp_profile_path", old)
	if err != nil || choice.kind != runtimeapi.SecurityProfile_Localhost {
		return err
	}
	if !path.IsAbs(choice.ref) {
		return invalid(choice.field, "%q is not an absolute path", choice.ref)
	}
	_, err = localProfile(ctx, host.paths(), choice.field, choice.ref, &specs.LinuxCapabilities{})
	return err
}
