package cri

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func checkRunPodSandbox(r *runtimeapi.RunPodSandboxRequest) error {
	if r.GetConfig() == nil {
		return invalid("config", "must be set")
	}
	return first(
		checkSandboxConfig("config", r.GetConfig()),
		checkHandler("runtime_handler", r.GetRuntimeHandler()),
	)
}

// checkHandler checks the name of a runtime handler; none is the default one.
func checkHandler(path, v string) error {
	if len(v) > maxName {
		return invalid(path, "must not have more than %d characters", maxName)
	}
	return matches(path, v, handlerPattern, "a name of a runtime handler")
}

// checkSandboxConfig checks all that a pod is made of.
func checkSandboxConfig(path string, c *runtimeapi.PodSandboxConfig) error {
	return first(
		checkSandboxMetadata(field(path, "metadata"), c.GetMetadata()),
		checkHostname(field(path, "hostname"), c.GetHostname()),
		checkLogDirectory(field(path, "log_directory"), c.GetLogDirectory()),
		checkDNS(field(path, "dns_config"), c.GetDnsConfig()),
		each(field(path, "port_mappings"), c.GetPortMappings(), checkPortMapping),
		labels(field(path, "labels"), c.GetLabels()),
		labels(field(path, "annotations"), c.GetAnnotations()),
		checkLinuxSandbox(field(path, "linux"), c.GetLinux()),
	)
}

func checkSandboxMetadata(path string, m *runtimeapi.PodSandboxMetadata) error {
	if m == nil {
		return invalid(path, "must be set")
	}
	return first(
		requiredName(field(path, "name"), m.GetName()),
		requiredName(field(path, "uid"), m.GetUid()),
		requiredName(field(path, "namespace"), m.GetNamespace()),
	)
}

func checkHostname(path, v string) error {
	if len(v) > maxHostname {
		return invalid(path, "must not have more than %d characters", maxHostname)
	}
	return matches(path, v, hostnamePattern, "a host name")
}

func checkLogDirectory(path, v string) error {
	if v == "" {
		return nil
	}
	return first(absolutePath(path, v), descendingPath(path, v))
}

// checkDNS is strict about what becomes a line of resolv.conf.
func checkDNS(path string, d *runtimeapi.DNSConfig) error {
	return first(
		each(field(path, "servers"), d.GetServers(), address),
		each(field(path, "searches"), d.GetSearches(), requiredWord),
		each(field(path, "options"), d.GetOptions(), requiredWord),
	)
}

func checkPortMapping(path string, m *runtimeapi.PortMapping) error {
	const maxPort = 65535
	if m.GetHostIp() != "" {
		if err := address(field(path, "host_ip"), m.GetHostIp()); err != nil {
			return err
		}
	}
	if m.GetHostPort() != 0 && m.GetContainerPort() == 0 {
		return invalid(field(path, "container_port"), "must be set with a host port")
	}
	return first(
		enum(field(path, "protocol"), m.GetProtocol()),
		between(field(path, "container_port"), int64(m.GetContainerPort()), 0, maxPort),
		between(field(path, "host_port"), int64(m.GetHostPort()), 0, maxPort),
	)
}

func checkLinuxSandbox(path string, l *runtimeapi.LinuxPodSandboxConfig) error {
	return first(
		descendingPath(field(path, "cgroup_parent"), l.GetCgroupParent()),
		checkSandboxSecurity(field(path, "security_context"), l.GetSecurityContext()),
		checkSysctls(field(path, "sysctls"), l.GetSysctls()),
		checkResources(field(path, "overhead"), l.GetOverhead()),
		checkResources(field(path, "resources"), l.GetResources()),
	)
}

// checkSysctls refuses what could be read as more than one setting (as in
// CVE-2022-0811). Which ones a pod may set is decided behind this package.
func checkSysctls(path string, sysctls map[string]string) error {
	for k, v := range sysctls {
		if len(k) > maxText {
			return invalid(path, "a name must not have more than %d bytes", maxText)
		}
		at := entry(path, k)
		if len(v) > maxText {
			return invalid(at, "the value must not have more than %d bytes", maxText)
		}
		if k == "" || strings.Contains(k, "..") || !sysctlPattern.MatchString(k) {
			return invalid(at, "%q is not the name of a sysctl", shorten(k))
		}
		for _, r := range v {
			if (r < ' ' && r != '\t') || r == 0x7f || r == '+' {
				return invalid(at, "the value contains %q", r)
			}
		}
	}
	return nil
}

func checkSandboxSecurity(path string, s *runtimeapi.LinuxSandboxSecurityContext) error {
	return first(
		checkNamespaces(field(path, "namespace_options"), s.GetNamespaceOptions()),
		checkSELinux(field(path, "selinux_options"), s.GetSelinuxOptions()),
		checkUser(path, s.GetRunAsUser(), "", s.GetRunAsGroup()),
		each(field(path, "supplemental_groups"), s.GetSupplementalGroups(), userID),
		enum(field(path, "supplemental_groups_policy"), s.GetSupplementalGroupsPolicy()),
		checkSeccomp(field(path, "seccomp"), s.GetSeccomp()),
		checkProfile(field(path, "apparmor"), s.GetApparmor()),
		//lint:ignore SA1019 clients still send it
		text(field(path, "seccomp_profile_path"), s.GetSeccompProfilePath()),
	)
}
