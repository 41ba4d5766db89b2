package runtimeservice

import (
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/podfiles"
)

// validateUserNamespace checks what a pod asks for. No options at all stand for
// a kubelet that does not know user namespaces, and for the node's.
func validateUserNamespace(field string, options *runtimeapi.UserNamespace) error {
	if options == nil {
		return nil
	}
	switch options.GetMode() {
	case runtimeapi.NamespaceMode_POD:
	case runtimeapi.NamespaceMode_NODE:
		if len(options.GetUids())+len(options.GetGids()) > 0 {
			return invalid(field, "mappings with mode NODE")
		}
		return nil
	default:
		return invalid(field+".mode", "%s: a user namespace is the pod's or the node's", options.GetMode())
	}
	if err := validateMapping(field+".uids", options.GetUids()); err != nil {
		return err
	}
	return validateMapping(field+".gids", options.GetGids())
}

// validateMapping demands what a kubelet sends: one range, which begins with the
// pod's root.
func validateMapping(field string, ranges []*runtimeapi.IDMapping) error {
	if len(ranges) != 1 {
		return invalid(field, "%d mappings, there has to be one", len(ranges))
	}
	r := ranges[0]
	switch {
	case r.GetContainerId() != 0:
		return invalid(field+"[0].container_id", "%d: ID 0 has to be mapped", r.GetContainerId())
	case r.GetLength() == 0:
		return invalid(field+"[0].length", "is 0")
	case uint64(r.GetHostId())+uint64(r.GetLength()) > math.MaxUint32:
		return invalid(field+"[0].length", "the range goes beyond the largest ID")
	}
	return nil
}

// userMapping is the mapping of a pod's own user namespace; nil for the node's.
func userMapping(config *runtimeapi.PodSandboxConfig) *namespaces.UserMapping {
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	if options == nil || options.GetMode() != runtimeapi.NamespaceMode_POD {
		return nil
	}
	return &namespaces.UserMapping{UIDs: idRanges(options.GetUids()), GIDs: idRanges(options.GetGids())}
}

func idRanges(mappings []*runtimeapi.IDMapping) []namespaces.IDRange {
	ranges := make([]namespaces.IDRange, 0, len(mappings))
	for _, m := range mappings {
		ranges = append(ranges, namespaces.IDRange{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Length: m.GetLength()})
	}
	return ranges
}

// rootOf is who the root of a pod's containers is on the node.
func rootOf(config *runtimeapi.PodSandboxConfig) podfiles.Owner {
	mapping := userMapping(config)
	if mapping == nil {
		return podfiles.Owner{}
	}
	uid, gid := mapping.HostRoot()
	return podfiles.Owner{UID: uid, GID: gid}
}

// userNamespace is the path of the pod's own; "" for the node's.
func (sb *sandbox) userNamespace() string {
	return sb.rec.Load().Namespaces[string(namespaces.User)]
}

// openTo lets a pod's root through the directory that its root file system is
// in: unlike the node's it may not pass where only the owner may. Others stay
// out, as they could run set-user-ID programs in there.
func openTo(root podfiles.Owner, dir string) error {
	if root == (podfiles.Owner{}) {
		return nil
	}
	if err := os.Lchown(dir, 0, int(root.GID)); err != nil {
		return err
	}
	return os.Chmod(dir, 0o710)
}

// requireUserNamespaces is ErrFailedPrecondition for a pod that wants a user
// namespace on a node that cannot give it one.
func (s *Service) requireUserNamespaces(config *runtimeapi.PodSandboxConfig) error {
	if s.userNamespaces == nil || userMapping(config) == nil {
		return nil
	}
	return fmt.Errorf("config.linux.security_context.namespace_options.userns_options: this node has no user namespaces for pods: %w: %w",
		s.userNamespaces, errdefs.ErrFailedPrecondition)
}

// probeMapping is the mapping that is tried. Any would do.
var probeMapping = namespaces.UserMapping{
	UIDs: []namespaces.IDRange{{HostID: 65536, Length: 65536}},
	GIDs: []namespaces.IDRange{{HostID: 65536, Length: 65536}},
}

// probeUserNamespaces finds out whether pods can have user namespaces, by making
// one, and what a root file system for it takes; the error says what is missing.
func (s *Service) probeUserNamespaces() error {
	if err := passable(s.containersDir()); err != nil {
		return err
	}
	userns, err := s.opts.Namespaces.OpenUser(probeMapping)
	if err != nil {
		return err
	}
	defer userns.Close()
	return s.opts.RootFilesystems.ProbeUserNamespaces(fmt.Sprintf("/proc/self/fd/%d", userns.Fd()))
}

// passable finds a directory on the way to dir that not everybody may pass.
func passable(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("the root of a user namespace may not pass %q (mode %#o), below which root file systems are mounted", dir, info.Mode().Perm())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
