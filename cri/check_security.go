package cri

import (
	"math"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkUser checks who a process runs as. The CRI text: only one of user and
// user name, and a group never alone.
func checkUser(path string, user *runtimeapi.Int64Value, name string, group *runtimeapi.Int64Value) error {
	if user != nil {
		if err := userID(field(path, "run_as_user"), user.GetValue()); err != nil {
			return err
		}
		if name != "" {
			return invalid(field(path, "run_as_username"), "must not be set together with run_as_user")
		}
	}
	if strings.ContainsAny(name, ":/") {
		return invalid(field(path, "run_as_username"), "%q is not the name of a user", shorten(name))
	}
	if group != nil {
		if user == nil && name == "" {
			return invalid(field(path, "run_as_group"), "must not be set without a user")
		}
		if err := userID(field(path, "run_as_group"), group.GetValue()); err != nil {
			return err
		}
	}
	return word(field(path, "run_as_username"), name)
}

func checkNamespaces(path string, n *runtimeapi.NamespaceOption) error {
	if err := first(
		enum(field(path, "network"), n.GetNetwork()),
		enum(field(path, "pid"), n.GetPid()),
		enum(field(path, "ipc"), n.GetIpc()),
	); err != nil {
		return err
	}
	if n.GetPid() == runtimeapi.NamespaceMode_TARGET && n.GetTargetId() == "" {
		return invalid(field(path, "target_id"), "must be set for the mode TARGET")
	}
	return first(
		optionalID(field(path, "target_id"), n.GetTargetId()),
		checkUserNamespace(field(path, "userns_options"), n.GetUsernsOptions()),
	)
}

func checkUserNamespace(path string, u *runtimeapi.UserNamespace) error {
	return first(
		enum(field(path, "mode"), u.GetMode()),
		each(field(path, "uids"), u.GetUids(), checkIDMapping),
		each(field(path, "gids"), u.GetGids(), checkIDMapping),
	)
}

func checkIDMapping(path string, m *runtimeapi.IDMapping) error {
	switch {
	case m.GetLength() == 0:
		return invalid(field(path, "length"), "must not be 0")
	case uint64(m.GetHostId())+uint64(m.GetLength()) > math.MaxUint32:
		return invalid(field(path, "host_id"), "the range goes beyond the largest ID")
	case uint64(m.GetContainerId())+uint64(m.GetLength()) > math.MaxUint32:
		return invalid(field(path, "container_id"), "the range goes beyond the largest ID")
	}
	return nil
}

func checkSELinux(path string, o *runtimeapi.SELinuxOption) error {
	return first(
		word(field(path, "user"), o.GetUser()),
		word(field(path, "role"), o.GetRole()),
		word(field(path, "type"), o.GetType()),
		word(field(path, "level"), o.GetLevel()),
	)
}

// checkProfile checks a seccomp or AppArmor profile: a reference goes with
// Localhost and with nothing else.
func checkProfile(path string, p *runtimeapi.SecurityProfile) error {
	at := field(path, "localhost_ref")
	if err := enum(field(path, "profile_type"), p.GetProfileType()); err != nil {
		return err
	}
	switch local := p.GetProfileType() == runtimeapi.SecurityProfile_Localhost; {
	case local && p.GetLocalhostRef() == "":
		return invalid(at, "must be set for the type Localhost")
	case !local && p.GetLocalhostRef() != "":
		return invalid(at, "must be set for the type Localhost only")
	}
	return text(at, p.GetLocalhostRef())
}

// checkSeccomp adds that a profile of the node is given by an absolute path.
func checkSeccomp(path string, p *runtimeapi.SecurityProfile) error {
	if err := checkProfile(path, p); err != nil || p.GetLocalhostRef() == "" {
		return err
	}
	at := field(path, "localhost_ref")
	return first(absolutePath(at, p.GetLocalhostRef()), descendingPath(at, p.GetLocalhostRef()))
}

func checkContainerSecurity(path string, s *runtimeapi.LinuxContainerSecurityContext) error {
	capabilities := field(path, "capabilities")
	return first(
		each(field(capabilities, "add_capabilities"), s.GetCapabilities().GetAddCapabilities(), requiredWord),
		each(field(capabilities, "drop_capabilities"), s.GetCapabilities().GetDropCapabilities(), requiredWord),
		each(field(capabilities, "add_ambient_capabilities"), s.GetCapabilities().GetAddAmbientCapabilities(), requiredWord),
		checkNamespaces(field(path, "namespace_options"), s.GetNamespaceOptions()),
		checkSELinux(field(path, "selinux_options"), s.GetSelinuxOptions()),
		checkUser(path, s.GetRunAsUser(), s.GetRunAsUsername(), s.GetRunAsGroup()),
		each(field(path, "supplemental_groups"), s.GetSupplementalGroups(), userID),
		enum(field(path, "supplemental_groups_policy"), s.GetSupplementalGroupsPolicy()),
		each(field(path, "masked_paths"), s.GetMaskedPaths(), absolutePath),
		each(field(path, "readonly_paths"), s.GetReadonlyPaths(), absolutePath),
		checkSeccomp(field(path, "seccomp"), s.GetSeccomp()),
		checkProfile(field(path, "apparmor"), s.GetApparmor()),
		//lint:ignore SA1019 clients still send it
		text(field(path, "apparmor_profile"), s.GetApparmorProfile()),
		//lint:ignore SA1019 clients still send it
		text(field(path, "seccomp_profile_path"), s.GetSeccompProfilePath()),
	)
}
