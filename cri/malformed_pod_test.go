package cri

import (
	"maps"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func malformedRunPodSandbox() malformedTable {
	type request = *runtimeapi.RunPodSandboxRequest
	cases := []malformedCase[request]{
		{"config", "absent", func(r request) { r.Config = nil }},
		{"runtime_handler", "long", func(r request) { r.RuntimeHandler = long }},
		{"runtime_handler", "path", func(r request) { r.RuntimeHandler = "../runc" }},
		{"runtime_handler", "newline", func(r request) { r.RuntimeHandler = "runc\n" }},
	}
	cases = append(cases, nested("config", request.GetConfig, sandboxConfigCases())...)
	return tableOf("RunPodSandbox", goodRunPodSandbox, cases)
}

func sandboxConfigCases() []malformedCase[*runtimeapi.PodSandboxConfig] {
	type config = *runtimeapi.PodSandboxConfig
	cases := []malformedCase[config]{
		{"metadata", "absent", func(c config) { c.Metadata = nil }},
		{"hostname", "space", func(c config) { c.Hostname = "a b" }},
		{"hostname", "newline", func(c config) { c.Hostname = "a\nb" }},
		{"hostname", "path", func(c config) { c.Hostname = "../a" }},
		{"hostname", "long", func(c config) { c.Hostname = strings.Repeat("a", 65) }},
		{"log_directory", "relative", func(c config) { c.LogDirectory = "var/log" }},
		{"log_directory", "parent", func(c config) { c.LogDirectory = "/var/log/../../etc" }},
		{"log_directory", "NUL", func(c config) { c.LogDirectory = "/var\x00" }},
		{"dns_config.servers[1]", "not an address", func(c config) { c.DnsConfig.Servers[1] = "dns.example" }},
		{"dns_config.servers[0]", "two lines", func(c config) { c.DnsConfig.Servers[0] = "1.1.1.1\nsearch evil" }},
		{"dns_config.searches[0]", "newline", func(c config) { c.DnsConfig.Searches[0] = "a\nnameserver 6.6.6.6" }},
		{"dns_config.searches[0]", "space", func(c config) { c.DnsConfig.Searches[0] = "a b" }},
		{"dns_config.searches[0]", "empty", func(c config) { c.DnsConfig.Searches[0] = "" }},
		{"dns_config.searches[0]", "long", func(c config) { c.DnsConfig.Searches[0] = long }},
		{"dns_config.options[0]", "newline", func(c config) { c.DnsConfig.Options[0] = "a\nb" }},
		{"dns_config.options[0]", "long", func(c config) { c.DnsConfig.Options[0] = long }},
		{"port_mappings[0].protocol", "unknown", func(c config) { c.PortMappings[0].Protocol = 7 }},
		{"port_mappings[0].container_port", "negative", func(c config) { c.PortMappings[0].ContainerPort = -1 }},
		{"port_mappings[0].container_port", "absent", func(c config) { c.PortMappings[0].ContainerPort = 0 }},
		{"port_mappings[1].container_port", "large", func(c config) { c.PortMappings[1].ContainerPort = 65536 }},
		{"port_mappings[0].host_port", "negative", func(c config) { c.PortMappings[0].HostPort = -1 }},
		{"port_mappings[0].host_port", "large", func(c config) { c.PortMappings[0].HostPort = 1 << 20 }},
		{"port_mappings[0].host_ip", "not an address", func(c config) { c.PortMappings[0].HostIp = "localhost" }},
		{"linux.cgroup_parent", "parent", func(c config) { c.Linux.CgroupParent = "/kubepods/../../x" }},
		{"linux.cgroup_parent", "long", func(c config) { c.Linux.CgroupParent = "/" + long }},
		{"linux.cgroup_parent", "newline", func(c config) { c.Linux.CgroupParent = "/a\nb" }},
		{`linux.sysctls[""]`, "empty", func(c config) { c.Linux.Sysctls = map[string]string{"": "1"} }},
		{"linux.sysctls", "long", func(c config) { c.Linux.Sysctls = map[string]string{"kernel." + long: "1"} }},
		{`linux.sysctls["kernel"]`, "one word", func(c config) { c.Linux.Sysctls = map[string]string{"kernel": "1"} }},
		{`linux.sysctls["net/../kernel/core_pattern"]`, "path", func(c config) {
			c.Linux.Sysctls = map[string]string{"net/../kernel/core_pattern": "1"}
		}},
		{`linux.sysctls["kernel.shm_rmid_forced=1+kernel.core_pattern"]`, "two names", func(c config) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced=1+kernel.core_pattern": "x"}
		}},
	}
	for name, v := range badSysctlValues {
		cases = append(cases, malformedCase[config]{`linux.sysctls["kernel.shm_rmid_forced"]`, name, func(c config) { c.Linux.Sysctls["kernel.shm_rmid_forced"] = v }})
	}
	return slices.Concat(cases,
		sandboxMetadataCases(config.GetMetadata),
		badLabels("labels", func(c config, m map[string]string) { c.Labels = m }),
		badLabels("annotations", func(c config, m map[string]string) { c.Annotations = m }),
		nested("linux.overhead", func(c config) *runtimeapi.LinuxContainerResources { return c.Linux.Overhead }, resourcesCases()),
		nested("linux.resources", func(c config) *runtimeapi.LinuxContainerResources { return c.Linux.Resources }, resourcesCases()),
		nested("linux.security_context", func(c config) *runtimeapi.LinuxSandboxSecurityContext { return c.Linux.SecurityContext }, sandboxSecurityCases()))
}

func malformedCreateContainer() malformedTable {
	type request = *runtimeapi.CreateContainerRequest
	cases := []malformedCase[request]{
		{"config", "absent", func(r request) { r.Config = nil }},
		{"sandbox_config", "absent", func(r request) { r.SandboxConfig = nil }},
	}
	for name, v := range badNames {
		cases = append(cases, malformedCase[request]{"config.metadata.name", name, func(r request) { r.Config.Metadata.Name = v }})
	}
	for name, v := range badPaths {
		cases = append(cases,
			malformedCase[request]{"config.mounts[0].container_path", name, func(r request) { r.Config.Mounts[0].ContainerPath = v }},
			malformedCase[request]{"config.mounts[1].host_path", name, func(r request) { r.Config.Mounts[1].HostPath = v }},
			malformedCase[request]{"config.devices[0].container_path", name, func(r request) { r.Config.Devices[0].ContainerPath = v }},
			malformedCase[request]{"config.devices[0].host_path", name, func(r request) { r.Config.Devices[0].HostPath = v }})
		if v != "" {
			cases = append(cases, malformedCase[request]{"config.working_dir", name, func(r request) { r.Config.WorkingDir = v }})
		}
	}
	// The path of a checkpoint is the name of an image here.
	ofConfig := slices.DeleteFunc(containerConfigCases(), func(c malformedCase[*runtimeapi.ContainerConfig]) bool {
		return c.path == "image.image" && c.name == "absolute"
	})
	return tableOf("CreateContainer", goodCreateContainer, slices.Concat(cases,
		badID("pod_sandbox_id", func(r request) *string { return &r.PodSandboxId }, true),
		nested("config", request.GetConfig, ofConfig),
		nested("sandbox_config", request.GetSandboxConfig, sandboxConfigCases())))
}

func sandboxMetadataCases[R any](metadata func(R) *runtimeapi.PodSandboxMetadata) []malformedCase[R] {
	var cases []malformedCase[R]
	for name, v := range badNames {
		cases = append(cases,
			malformedCase[R]{"metadata.name", name, func(r R) { metadata(r).Name = v }},
			malformedCase[R]{"metadata.uid", name, func(r R) { metadata(r).Uid = v }},
			malformedCase[R]{"metadata.namespace", name, func(r R) { metadata(r).Namespace = v }})
	}
	return cases
}

// badSysctlValues could be read as more than one setting, or by more than one reader.
var badSysctlValues = map[string]string{"two settings": "1+kernel.core_pattern=|/bin/x", "newline": "1\n2", "NUL": "1\x00", "long": long}

func containerConfigCases() []malformedCase[*runtimeapi.ContainerConfig] {
	type config = *runtimeapi.ContainerConfig
	return slices.Concat([]malformedCase[config]{
		{"metadata", "absent", func(c config) { c.Metadata = nil }},
		{"working_dir", "open file", func(c config) { c.WorkingDir = "/proc/self/fd/7" }},
		{"working_dir", "open file of a thread", func(c config) { c.WorkingDir = "/proc/thread-self/fd/8/../.." + "/fd/8" }},
		{"working_dir", "open file of a task", func(c config) { c.WorkingDir = "/proc/self/task/1/fd/8" }},
		{"working_dir", "dev", func(c config) { c.WorkingDir = "/dev/fd/9/" }},
		{"log_path", "absolute", func(c config) { c.LogPath = "/etc/passwd" }},
		{"log_path", "parent", func(c config) { c.LogPath = "../x.log" }},
		{"log_path", "parent inside", func(c config) { c.LogPath = "a/../../x.log" }},
		{"log_path", "no file", func(c config) { c.LogPath = "./" }},
		{"log_path", "newline", func(c config) { c.LogPath = "a\nb" }},
		{"log_path", "long", func(c config) { c.LogPath = long }},
		{"devices[0].permissions", "letter", func(c config) { c.Devices[0].Permissions = "rwx" }},
		{"devices[0].permissions", "long", func(c config) { c.Devices[0].Permissions = strings.Repeat("r", 100) }},
		{"devices[0].container_path", "parent", func(c config) { c.Devices[0].ContainerPath = "/dev/../etc/x" }},
		{"stop_signal", "unknown", func(c config) { c.StopSignal = 66 }},
		{"stop_signal", "negative", func(c config) { c.StopSignal = -1 }},
		{"CDI_devices[0].name", "empty", func(c config) { c.CDIDevices[0].Name = "" }},
		{"CDI_devices[0].name", "space", func(c config) { c.CDIDevices[0].Name = "a b" }},
		{"CDI_devices[0].name", "long", func(c config) { c.CDIDevices[0].Name = long }},
	},
		requiredImageCases("image", func(c config) **runtimeapi.ImageSpec { return &c.Image }),
		commandCases(),
		mountCases(),
		badLabels("labels", func(c config, m map[string]string) { c.Labels = m }),
		badLabels("annotations", func(c config, m map[string]string) { c.Annotations = m }),
		nested("linux.resources", func(c config) *runtimeapi.LinuxContainerResources { return c.Linux.Resources }, resourcesCases()),
		nested("linux.security_context", func(c config) *runtimeapi.LinuxContainerSecurityContext { return c.Linux.SecurityContext }, containerSecurityCases()))
}

func commandCases() []malformedCase[*runtimeapi.ContainerConfig] {
	type config = *runtimeapi.ContainerConfig
	return []malformedCase[config]{
		{"command[0]", "empty", func(c config) { c.Command[0] = "" }},
		{"command[1]", "NUL", func(c config) { c.Command[1] = "a\x00b" }},
		{"command[1]", "long", func(c config) { c.Command[1] = tooLong }},
		{"args[1]", "NUL", func(c config) { c.Args[1] = "\x00" }},
		{"args[1]", "long", func(c config) { c.Args[1] = tooLong }},
		{"envs[0].key", "empty", func(c config) { c.Envs[0].Key = "" }},
		{"envs[0].key", "equals", func(c config) { c.Envs[0].Key = "A=B" }},
		{"envs[0].key", "NUL", func(c config) { c.Envs[0].Key = "A\x00" }},
		{"envs[0].key", "long", func(c config) { c.Envs[0].Key = tooLong }},
		{"envs[1].value", "NUL", func(c config) { c.Envs[1].Value = []byte("secret\x00") }},
		{"envs[1].value", "long", func(c config) { c.Envs[1].Value = []byte(tooLong) }},
	}
}

func mountCases() []malformedCase[*runtimeapi.ContainerConfig] {
	type config = *runtimeapi.ContainerConfig
	cases := []malformedCase[config]{
		{"mounts[0].container_path", "root", func(c config) { c.Mounts[0].ContainerPath = "/a/.." }},
		{"mounts[0].propagation", "unknown", func(c config) { c.Mounts[0].Propagation = 3 }},
		{"mounts[1].recursive_read_only", "not read-only", func(c config) { c.Mounts[1].Readonly = false }},
		{"mounts[1].recursive_read_only", "propagation", func(c config) {
			c.Mounts[1].Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}},
		{"mounts[3].host_path", "with an image", func(c config) { c.Mounts[3].HostPath = "/a" }},
		{"mounts[3].image_sub_path", "absolute", func(c config) { c.Mounts[3].ImageSubPath = "/etc" }},
		{"mounts[3].image_sub_path", "parent", func(c config) { c.Mounts[3].ImageSubPath = "a/../../b" }},
		{"mounts[3].image_sub_path", "NUL", func(c config) { c.Mounts[3].ImageSubPath = "a\x00" }},
		{"mounts[3].image_sub_path", "long", func(c config) { c.Mounts[3].ImageSubPath = long }},
		{"mounts[0].image_sub_path", "without an image", func(c config) { c.Mounts[0].ImageSubPath = "a" }},
		{"mounts[0].mount_options[0]", "empty", func(c config) { c.Mounts[0].MountOptions = []string{""} }},
		{"mounts[0].mount_options[0]", "space", func(c config) { c.Mounts[0].MountOptions = []string{"a b"} }},
		{"mounts[0].mount_options[0]", "long", func(c config) { c.Mounts[0].MountOptions = []string{long} }},
	}
	return slices.Concat(cases,
		nested("mounts[3].image", func(c config) *runtimeapi.ImageSpec { return c.Mounts[3].Image }, imageSpecCases()),
		badMappings("mounts[0].uidMappings", func(c config, m []*runtimeapi.IDMapping) { c.Mounts[0].UidMappings = m }),
		badMappings("mounts[0].gidMappings", func(c config, m []*runtimeapi.IDMapping) { c.Mounts[0].GidMappings = m }))
}

// resourcesCases set lists as a whole: there may be none.
func resourcesCases() []malformedCase[*runtimeapi.LinuxContainerResources] {
	type resources = *runtimeapi.LinuxContainerResources
	cases := []malformedCase[resources]{
		{"cpu_period", "negative", func(r resources) { r.CpuPeriod = -1 }},
		{"cpu_quota", "negative", func(r resources) { r.CpuQuota = -2 }},
		{"cpu_shares", "negative", func(r resources) { r.CpuShares = -1 }},
		{"memory_limit_in_bytes", "negative", func(r resources) { r.MemoryLimitInBytes = -2 }},
		{"memory_swap_limit_in_bytes", "negative", func(r resources) { r.MemorySwapLimitInBytes = -5 }},
		{"oom_score_adj", "small", func(r resources) { r.OomScoreAdj = -1001 }},
		{"oom_score_adj", "large", func(r resources) { r.OomScoreAdj = 1001 }},
		{`unified["../memory.max"]`, "path", func(r resources) { r.Unified = map[string]string{"../memory.max": "1"} }},
		{`unified[""]`, "empty", func(r resources) { r.Unified = map[string]string{"": "1"} }},
		{`unified["memory.max"]`, "NUL", func(r resources) { r.Unified = map[string]string{"memory.max": "1\x00"} }},
		{`unified["memory.max"]`, "long", func(r resources) { r.Unified = map[string]string{"memory.max": tooLong} }},
		{"unified", "long key", func(r resources) { r.Unified = map[string]string{"memory." + long: "1"} }},
	}
	for name, v := range map[string]string{"words": "all", "newline": "0\n1", "negative": "-1", "long": strings.Repeat("1,", 3000) + "1"} {
		cases = append(cases,
			malformedCase[resources]{"cpuset_cpus", name, func(r resources) { r.CpusetCpus = v }},
			malformedCase[resources]{"cpuset_mems", name, func(r resources) { r.CpusetMems = v }})
	}
	for name, v := range map[string]string{"empty": "", "path": "../2MB", "words": "huge", "long": long} {
		cases = append(cases, malformedCase[resources]{"hugepage_limits[0].page_size", name, func(r resources) {
			r.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: v}}
		}})
	}
	return cases
}

func sandboxSecurityCases() []malformedCase[*runtimeapi.LinuxSandboxSecurityContext] {
	type context = *runtimeapi.LinuxSandboxSecurityContext
	return slices.Concat(
		nested("namespace_options", func(s context) *runtimeapi.NamespaceOption { return s.NamespaceOptions }, namespaceCases()),
		badLabelsOfSELinux(func(s context, o *runtimeapi.SELinuxOption) { s.SelinuxOptions = o }),
		badGroups(func(s context, groups []int64, policy runtimeapi.SupplementalGroupsPolicy) {
			s.SupplementalGroups, s.SupplementalGroupsPolicy = groups, policy
		}),
		badProfiles("seccomp", func(s context, p *runtimeapi.SecurityProfile) { s.Seccomp = p }, badSeccompFiles),
		badProfiles("apparmor", func(s context, p *runtimeapi.SecurityProfile) { s.Apparmor = p }, badProfileNames),
		[]malformedCase[context]{
			{"run_as_user", "negative", func(s context) { s.RunAsUser = &runtimeapi.Int64Value{Value: -1} }},
			{"run_as_user", "large", func(s context) { s.RunAsUser = &runtimeapi.Int64Value{Value: 1 << 31} }},
			{"run_as_group", "alone", func(s context) { s.RunAsUser = nil }},
			{"run_as_group", "negative", func(s context) { s.RunAsGroup = &runtimeapi.Int64Value{Value: -1} }},
			//lint:ignore SA1019 clients still send it
			{"seccomp_profile_path", "newline", func(s context) { s.SeccompProfilePath = "localhost/a\n" }},
			//lint:ignore SA1019 clients still send it
			{"seccomp_profile_path", "long", func(s context) { s.SeccompProfilePath = long }},
		})
}

func containerSecurityCases() []malformedCase[*runtimeapi.LinuxContainerSecurityContext] {
	type context = *runtimeapi.LinuxContainerSecurityContext
	cases := []malformedCase[context]{
		{"run_as_user", "negative", func(s context) { s.RunAsUsername, s.RunAsUser = "", &runtimeapi.Int64Value{Value: -1} }},
		{"run_as_user", "overflow", func(s context) { s.RunAsUsername, s.RunAsUser = "", &runtimeapi.Int64Value{Value: 1 << 32} }},
		{"run_as_username", "with a user", func(s context) { s.RunAsUser = &runtimeapi.Int64Value{Value: 1} }},
		{"run_as_username", "newline", func(s context) { s.RunAsUsername = "a\nroot" }},
		{"run_as_username", "colon", func(s context) { s.RunAsUsername = "0:0" }},
		{"run_as_username", "path", func(s context) { s.RunAsUsername = "../root" }},
		{"run_as_username", "long", func(s context) { s.RunAsUsername = long }},
		{"run_as_group", "alone", func(s context) { s.RunAsUsername = "" }},
		{"run_as_group", "negative", func(s context) { s.RunAsGroup.Value = -1 }},
		//lint:ignore SA1019 clients still send it
		{"seccomp_profile_path", "newline", func(s context) { s.SeccompProfilePath = "localhost/a\n" }},
		//lint:ignore SA1019 clients still send it
		{"seccomp_profile_path", "long", func(s context) { s.SeccompProfilePath = long }},
		//lint:ignore SA1019 clients still send it
		{"apparmor_profile", "newline", func(s context) { s.ApparmorProfile = "localhost/a\n" }},
		//lint:ignore SA1019 clients still send it
		{"apparmor_profile", "long", func(s context) { s.ApparmorProfile = long }},
	}
	for name, v := range map[string]string{"empty": "", "space": "NET RAW", "newline": "NET_RAW\n", "long": long} {
		cases = append(cases,
			malformedCase[context]{"capabilities.add_capabilities[0]", name, func(s context) { s.Capabilities.AddCapabilities = []string{v} }},
			malformedCase[context]{"capabilities.drop_capabilities[0]", name, func(s context) { s.Capabilities.DropCapabilities = []string{v} }},
			malformedCase[context]{"capabilities.add_ambient_capabilities[0]", name, func(s context) { s.Capabilities.AddAmbientCapabilities = []string{v} }})
	}
	for name, v := range badPaths {
		cases = append(cases,
			malformedCase[context]{"masked_paths[0]", name, func(s context) { s.MaskedPaths = []string{v} }},
			malformedCase[context]{"readonly_paths[0]", name, func(s context) { s.ReadonlyPaths = []string{v} }})
	}
	return slices.Concat(cases,
		nested("namespace_options", func(s context) *runtimeapi.NamespaceOption { return s.NamespaceOptions }, namespaceCases()),
		badLabelsOfSELinux(func(s context, o *runtimeapi.SELinuxOption) { s.SelinuxOptions = o }),
		badGroups(func(s context, groups []int64, policy runtimeapi.SupplementalGroupsPolicy) {
			s.SupplementalGroups, s.SupplementalGroupsPolicy = groups, policy
		}),
		badProfiles("seccomp", func(s context, p *runtimeapi.SecurityProfile) { s.Seccomp = p }, badSeccompFiles),
		badProfiles("apparmor", func(s context, p *runtimeapi.SecurityProfile) { s.Apparmor = p }, badProfileNames))
}

func namespaceCases() []malformedCase[*runtimeapi.NamespaceOption] {
	type namespaces = *runtimeapi.NamespaceOption
	return slices.Concat([]malformedCase[namespaces]{
		{"network", "unknown", func(n namespaces) { n.Network = 9 }},
		{"pid", "negative", func(n namespaces) { n.Pid = -1 }},
		{"ipc", "unknown", func(n namespaces) { n.Ipc = 4 }},
		{"target_id", "absent", func(n namespaces) { n.Pid, n.TargetId = runtimeapi.NamespaceMode_TARGET, "" }},
		{"userns_options.mode", "unknown", func(n namespaces) { n.UsernsOptions = &runtimeapi.UserNamespace{Mode: 12} }},
	},
		badID("target_id", func(n namespaces) *string { return &n.TargetId }, false),
		badMappings("userns_options.uids", func(n namespaces, m []*runtimeapi.IDMapping) { n.UsernsOptions = &runtimeapi.UserNamespace{Uids: m} }),
		badMappings("userns_options.gids", func(n namespaces, m []*runtimeapi.IDMapping) { n.UsernsOptions = &runtimeapi.UserNamespace{Gids: m} }))
}

// badMappings are refused as the users or groups of a user namespace.
func badMappings[R any](path string, set func(R, []*runtimeapi.IDMapping)) []malformedCase[R] {
	good := &runtimeapi.IDMapping{HostId: 100000, Length: 1}
	of := func(m *runtimeapi.IDMapping) func(R) { return func(r R) { set(r, []*runtimeapi.IDMapping{good, m}) } }
	return []malformedCase[R]{
		{path + "[1].length", "zero", of(&runtimeapi.IDMapping{HostId: 1})},
		{path + "[1].host_id", "overflow", of(&runtimeapi.IDMapping{HostId: 1 << 31, Length: 1 << 31})},
		{path + "[1].container_id", "overflow", of(&runtimeapi.IDMapping{ContainerId: 1<<32 - 1, Length: 1})},
	}
}

func badLabelsOfSELinux[R any](set func(R, *runtimeapi.SELinuxOption)) []malformedCase[R] {
	var cases []malformedCase[R]
	for name, v := range map[string]string{"space": "a b", "newline": "s0\n", "NUL": "s0\x00", "long": long} {
		cases = append(cases,
			malformedCase[R]{"selinux_options.user", name, func(r R) { set(r, &runtimeapi.SELinuxOption{User: v}) }},
			malformedCase[R]{"selinux_options.role", name, func(r R) { set(r, &runtimeapi.SELinuxOption{Role: v}) }},
			malformedCase[R]{"selinux_options.type", name, func(r R) { set(r, &runtimeapi.SELinuxOption{Type: v}) }},
			malformedCase[R]{"selinux_options.level", name, func(r R) { set(r, &runtimeapi.SELinuxOption{Level: v}) }})
	}
	return cases
}

func badGroups[R any](set func(R, []int64, runtimeapi.SupplementalGroupsPolicy)) []malformedCase[R] {
	return []malformedCase[R]{
		{"supplemental_groups[1]", "large", func(r R) { set(r, []int64{0, 1 << 31}, 0) }},
		{"supplemental_groups[0]", "negative", func(r R) { set(r, []int64{-1}, 0) }},
		{"supplemental_groups_policy", "unknown", func(r R) { set(r, nil, 2) }},
	}
}

// badProfileNames are refused as the name of an AppArmor profile, badSeccompFiles as the file
// of a seccomp profile.
var (
	badProfileNames = map[string]string{"absent": "", "newline": "a\nb", "NUL": "/a\x00", "long": "/" + long}
	badSeccompFiles = func() map[string]string {
		files := maps.Clone(badProfileNames)
		files["relative"], files["parent"] = "profiles/a.json", "/a/../../etc/shadow"
		return files
	}()
)

func badProfiles[R any](path string, set func(R, *runtimeapi.SecurityProfile), refs map[string]string) []malformedCase[R] {
	cases := []malformedCase[R]{
		{path + ".profile_type", "unknown", func(r R) { set(r, &runtimeapi.SecurityProfile{ProfileType: 3}) }},
		{path + ".localhost_ref", "with another type", func(r R) { set(r, &runtimeapi.SecurityProfile{LocalhostRef: "/a"}) }},
	}
	for name, v := range refs {
		cases = append(cases, malformedCase[R]{path + ".localhost_ref", name, func(r R) {
			set(r, &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: v})
		}})
	}
	return cases
}
