package spec

import (
	"context"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// userNamespace gives the pod's own user namespace; nil for the node's. It is the
// pod's alone to choose: a container that says something has to say the same.
func userNamespace(pod, own *runtimeapi.NamespaceOption) (*runtimeapi.UserNamespace, error) {
	ofPod := ownUserNamespace(pod.GetUsernsOptions())
	if asked := own.GetUsernsOptions(); asked != nil && !sameMappings(ownUserNamespace(asked), ofPod) {
		return nil, invalid(namespaceOptionsField+".userns_options", "not what the pod has")
	}
	return ofPod, nil
}

func ownUserNamespace(u *runtimeapi.UserNamespace) *runtimeapi.UserNamespace {
	if u == nil || u.GetMode() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	return u
}

func sameMappings(a, b *runtimeapi.UserNamespace) bool {
	return (a == nil) == (b == nil) && a.GetMode() == b.GetMode() &&
		slices.EqualFunc(a.GetUids(), b.GetUids(), sameMapping) && slices.EqualFunc(a.GetGids(), b.GetGids(), sameMapping)
}

func sameMapping(a, b *runtimeapi.IDMapping) bool { return proto.Equal(a, b) }

// podUserNamespace is what ownUserNamespace gives for the pod of an input.
func podUserNamespace(in *Input) *runtimeapi.UserNamespace {
	return ownUserNamespace(in.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions())
}

// checkMapped refuses a user or a group that the pod's user namespace does not
// have: the kernel would, when the container is started.
func (id *identity) checkMapped(u *runtimeapi.UserNamespace) error {
	if u == nil {
		return nil
	}
	if !isMapped(u.GetUids(), id.uid) {
		return invalid(securityContextField+".run_as_user", "user %d is not in the pod's user namespace", id.uid)
	}
	if !isMapped(u.GetGids(), id.gid) {
		return invalid(securityContextField+".run_as_group", "group %d is not in the pod's user namespace", id.gid)
	}
	for _, gid := range id.groups {
		if !isMapped(u.GetGids(), gid) {
			return invalid(securityContextField+".supplemental_groups", "group %d is not in the pod's user namespace", gid)
		}
	}
	return nil
}

func isMapped(ranges []*runtimeapi.IDMapping, id int64) bool {
	return slices.ContainsFunc(ranges, func(m *runtimeapi.IDMapping) bool {
		first := int64(m.GetContainerId())
		return id >= first && id-first < int64(m.GetLength())
	})
}

// forUserNamespace puts views of the node's file systems in the place of the
// system mounts that the root of a user namespace may not make: those of
// namespaces that are the node's.
func forUserNamespace(mounts []specs.Mount, m modes) []specs.Mount {
	if m.user == nil {
		return mounts
	}
	if _, err := os.Stat("/dev/mqueue"); err != nil && m.ipc == runtimeapi.NamespaceMode_NODE {
		// The node shows its queues nowhere. They can be used all the same.
		mounts = slices.DeleteFunc(mounts, func(mnt specs.Mount) bool { return mnt.Type == "mqueue" })
	}
	for i := range mounts {
		mnt := &mounts[i]
		switch {
		case mnt.Type == "sysfs" && m.network == runtimeapi.NamespaceMode_NODE,
			mnt.Type == "mqueue" && m.ipc == runtimeapi.NamespaceMode_NODE,
			mnt.Type == "proc" && m.pid == runtimeapi.NamespaceMode_NODE:
			mnt.Type, mnt.Source = "bind", mnt.Destination
			mnt.Options = append([]string{"rbind", "rprivate"}, readOnlyAsAWhole(mnt.Options)...)
		case mnt.Type == "devpts" && !isMapped(m.user.GetGids(), ttyGroup):
			mnt.Options = slices.DeleteFunc(mnt.Options, func(o string) bool { return o == "gid="+strconv.Itoa(ttyGroup) })
		}
	}
	return mounts
}

// readOnlyAsAWhole has a read-only view of the node's be so with all mounts in it.
func readOnlyAsAWhole(options []string) []string {
	if i := slices.Index(options, "ro"); i >= 0 {
		options[i] = "rro"
	}
	return options
}

// mountMappings are the ID mappings of a mount of the request.
func mountMappings(m *runtimeapi.Mount, mount *specs.Mount) {
	mount.UIDMappings, mount.GIDMappings = ociMappings(m.GetUidMappings()), ociMappings(m.GetGidMappings())
}

// ProbeSources has the file systems of those mounts answer that the runtime itself may have to
// open at the container's start, in the place of the container's own process: mapped ones,
// and those of a user namespace that may not look at them. It would wait beyond SIGKILL for
// one that has died since the container was created. The error is ErrUnavailable then.
func (h *Host) ProbeSources(ctx context.Context, s *specs.Spec) error {
	inUserNamespace := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	for _, m := range s.Mounts {
		if m.Type != "bind" || !inUserNamespace && len(m.UIDMappings) == 0 {
			continue
		}
		if _, err := resolveHostPath(ctx, h.paths(), "source of "+m.Destination, m.Source); err != nil {
			return err
		}
	}
	return nil
}

func ociMappings(mappings []*runtimeapi.IDMapping) []specs.LinuxIDMapping {
	var all []specs.LinuxIDMapping
	for _, m := range mappings {
		all = append(all, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return all
}
