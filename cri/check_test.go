package cri

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// malformedCase changes a good request so that the field at path is malformed.
type malformedCase[R any] struct {
	path   string
	name   string
	change func(R)
}

// runMalformed checks that the good request passes and that each change of it
// is refused with the path of its field.
func runMalformed[R any](t *testing.T, good func() R, check func(R) error, cases []malformedCase[R]) {
	t.Helper()
	if err := check(good()); err != nil {
		t.Fatalf("a good request: %v", err)
	}
	for _, c := range cases {
		t.Run(c.path+" "+c.name, func(t *testing.T) {
			r := good()
			c.change(r)
			err := check(r)
			if err == nil {
				t.Fatal("was accepted")
			}
			var f *fieldError
			if !errors.As(err, &f) || f.path != c.path {
				t.Errorf("error %q does not name the field %s", err, c.path)
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %q is not an invalid argument", err)
			}
			if strings.ContainsAny(err.Error(), "\n\x00\x1b") {
				t.Errorf("error %q repeats control characters", err)
			}
		})
	}
}

var long = strings.Repeat("x", 5000)

// badNames are refused wherever a name is.
var badNames = map[string]string{
	"empty": "", "path": "a/b", "parent": "..", "self": ".", "newline": "a\nb", "NUL": "a\x00b", "escape": "\x1b[2J", "long": long,
}

// badPaths are refused wherever an absolute path is.
var badPaths = map[string]string{
	"empty": "", "relative": "a/b", "newline": "/a\nb", "NUL": "/a\x00", "long": "/" + long,
}

func TestMalformedRunPodSandbox(t *testing.T) {
	type request = *runtimeapi.RunPodSandboxRequest
	cases := []malformedCase[request]{
		{"config", "absent", func(r request) { r.Config = nil }},
		{"config.metadata", "absent", func(r request) { r.Config.Metadata = nil }},
		{"runtime_handler", "path", func(r request) { r.RuntimeHandler = "../runc" }},
		{"runtime_handler", "newline", func(r request) { r.RuntimeHandler = "runc\n" }},
	}
	for name, v := range badNames {
		cases = append(cases,
			malformedCase[request]{"config.metadata.name", name, func(r request) { r.Config.Metadata.Name = v }},
			malformedCase[request]{"config.metadata.uid", name, func(r request) { r.Config.Metadata.Uid = v }},
			malformedCase[request]{"config.metadata.namespace", name, func(r request) { r.Config.Metadata.Namespace = v }})
	}
	for _, c := range sandboxConfigCases() {
		cases = append(cases, malformedCase[request]{"config." + c.path, c.name, func(r request) { c.change(r.Config) }})
	}
	runMalformed(t, goodRunPodSandbox, checkRunPodSandbox, cases)
}

func sandboxConfigCases() []malformedCase[*runtimeapi.PodSandboxConfig] {
	type config = *runtimeapi.PodSandboxConfig
	negative := &runtimeapi.Int64Value{Value: -1}
	return []malformedCase[config]{
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
		{"dns_config.options[0]", "newline", func(c config) { c.DnsConfig.Options[0] = "a\nb" }},
		{"port_mappings[0].protocol", "unknown", func(c config) { c.PortMappings[0].Protocol = 7 }},
		{"port_mappings[0].container_port", "negative", func(c config) { c.PortMappings[0].ContainerPort = -1 }},
		{"port_mappings[0].container_port", "absent", func(c config) { c.PortMappings[0].ContainerPort = 0 }},
		{"port_mappings[1].container_port", "large", func(c config) { c.PortMappings[1].ContainerPort = 65536 }},
		{"port_mappings[0].host_port", "negative", func(c config) { c.PortMappings[0].HostPort = -1 }},
		{"port_mappings[0].host_port", "large", func(c config) { c.PortMappings[0].HostPort = 1 << 20 }},
		{"port_mappings[0].host_ip", "not an address", func(c config) { c.PortMappings[0].HostIp = "localhost" }},
		{"labels", "empty key", func(c config) { c.Labels[""] = "v" }},
		{`labels["a\nb"]`, "newline", func(c config) { c.Labels["a\nb"] = "v" }},
		{"annotations", "empty key", func(c config) { c.Annotations[""] = "v" }},
		{"linux.cgroup_parent", "parent", func(c config) { c.Linux.CgroupParent = "/kubepods/../../x" }},
		{"linux.cgroup_parent", "newline", func(c config) { c.Linux.CgroupParent = "/a\nb" }},
		{`linux.sysctls[""]`, "empty", func(c config) { c.Linux.Sysctls = map[string]string{"": "1"} }},
		{`linux.sysctls["kernel"]`, "one word", func(c config) { c.Linux.Sysctls = map[string]string{"kernel": "1"} }},
		{`linux.sysctls["net/../kernel/core_pattern"]`, "path", func(c config) {
			c.Linux.Sysctls = map[string]string{"net/../kernel/core_pattern": "1"}
		}},
		{`linux.sysctls["kernel.shm_rmid_forced=1+kernel.core_pattern"]`, "two names", func(c config) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced=1+kernel.core_pattern": "x"}
		}},
		{`linux.sysctls["kernel.shm_rmid_forced"]`, "two settings", func(c config) {
			c.Linux.Sysctls["kernel.shm_rmid_forced"] = "1+kernel.core_pattern=|/bin/x"
		}},
		{`linux.sysctls["kernel.shm_rmid_forced"]`, "newline", func(c config) { c.Linux.Sysctls["kernel.shm_rmid_forced"] = "1\n2" }},
		{`linux.sysctls["kernel.shm_rmid_forced"]`, "NUL", func(c config) { c.Linux.Sysctls["kernel.shm_rmid_forced"] = "1\x00" }},
		{"linux.security_context.namespace_options.network", "unknown", func(c config) { c.Linux.SecurityContext.NamespaceOptions.Network = 9 }},
		{"linux.security_context.namespace_options.pid", "negative", func(c config) { c.Linux.SecurityContext.NamespaceOptions.Pid = -1 }},
		{"linux.security_context.namespace_options.ipc", "unknown", func(c config) { c.Linux.SecurityContext.NamespaceOptions.Ipc = 4 }},
		{"linux.security_context.namespace_options.target_id", "absent", func(c config) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		}},
		{"linux.security_context.namespace_options.userns_options.mode", "unknown", func(c config) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Mode = 12
		}},
		{"linux.security_context.namespace_options.userns_options.uids[0].length", "zero", func(c config) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids = []*runtimeapi.IDMapping{{HostId: 1}}
		}},
		{"linux.security_context.namespace_options.userns_options.gids[0].host_id", "overflow", func(c config) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Gids = []*runtimeapi.IDMapping{{HostId: 1 << 31, Length: 1 << 31}}
		}},
		{"linux.security_context.run_as_user", "negative", func(c config) { c.Linux.SecurityContext.RunAsUser = negative }},
		{"linux.security_context.run_as_group", "alone", func(c config) { c.Linux.SecurityContext.RunAsUser = nil }},
		{"linux.security_context.supplemental_groups[0]", "large", func(c config) { c.Linux.SecurityContext.SupplementalGroups[0] = 1 << 31 }},
		{"linux.security_context.supplemental_groups_policy", "unknown", func(c config) { c.Linux.SecurityContext.SupplementalGroupsPolicy = 2 }},
		{"linux.security_context.seccomp.profile_type", "unknown", func(c config) { c.Linux.SecurityContext.Seccomp.ProfileType = 3 }},
		{"linux.security_context.seccomp.localhost_ref", "with another type", func(c config) {
			c.Linux.SecurityContext.Seccomp.LocalhostRef = "/a"
		}},
		{"linux.security_context.apparmor.localhost_ref", "absent", func(c config) {
			c.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		}},
		{"linux.overhead.cpu_shares", "negative", func(c config) { c.Linux.Overhead.CpuShares = -1 }},
		{"linux.resources.oom_score_adj", "large", func(c config) { c.Linux.Resources.OomScoreAdj = 1001 }},
	}
}

func TestMalformedCreateContainer(t *testing.T) {
	type request = *runtimeapi.CreateContainerRequest
	cases := []malformedCase[request]{
		{"pod_sandbox_id", "empty", func(r request) { r.PodSandboxId = "" }},
		{"pod_sandbox_id", "path", func(r request) { r.PodSandboxId = "../" + sandboxID }},
		{"config", "absent", func(r request) { r.Config = nil }},
		{"config.metadata", "absent", func(r request) { r.Config.Metadata = nil }},
		{"sandbox_config", "absent", func(r request) { r.SandboxConfig = nil }},
		{"sandbox_config.metadata.name", "empty", func(r request) { r.SandboxConfig.Metadata.Name = "" }},
	}
	for name, v := range badNames {
		cases = append(cases, malformedCase[request]{"config.metadata.name", name, func(r request) { r.Config.Metadata.Name = v }})
	}
	for name, v := range badPaths {
		cases = append(cases,
			malformedCase[request]{"config.mounts[0].container_path", name, func(r request) { r.Config.Mounts[0].ContainerPath = v }},
			malformedCase[request]{"config.mounts[1].host_path", name, func(r request) { r.Config.Mounts[1].HostPath = v }},
			malformedCase[request]{"config.devices[0].container_path", name, func(r request) { r.Config.Devices[0].ContainerPath = v }},
			malformedCase[request]{"config.devices[0].host_path", name, func(r request) { r.Config.Devices[0].HostPath = v }},
			malformedCase[request]{"config.linux.security_context.masked_paths[0]", name, func(r request) {
				r.Config.Linux.SecurityContext.MaskedPaths[0] = v
			}},
			malformedCase[request]{"config.linux.security_context.readonly_paths[0]", name, func(r request) {
				r.Config.Linux.SecurityContext.ReadonlyPaths[0] = v
			}})
		if v != "" {
			cases = append(cases, malformedCase[request]{"config.working_dir", name, func(r request) { r.Config.WorkingDir = v }})
		}
	}
	for _, c := range containerConfigCases() {
		cases = append(cases, malformedCase[request]{"config." + c.path, c.name, func(r request) { c.change(r.Config) }})
	}
	runMalformed(t, goodCreateContainer, checkCreateContainer, cases)
}

func containerConfigCases() []malformedCase[*runtimeapi.ContainerConfig] {
	type config = *runtimeapi.ContainerConfig
	return []malformedCase[config]{
		{"image.image", "absent", func(c config) { c.Image = nil }},
		{"image.image", "empty", func(c config) { c.Image.Image = "" }},
		{"image.image", "space", func(c config) { c.Image.Image = "a b" }},
		{"image.image", "newline", func(c config) { c.Image.Image = "a\nb" }},
		{"image.image", "path", func(c config) { c.Image.Image = "../../etc/passwd" }},
		{"image.image", "path inside", func(c config) { c.Image.Image = "a/../b" }},
		{"image.image", "unknown digest", func(c config) { c.Image.Image = "a@md5:0123" }},
		{"image.image", "short digest", func(c config) { c.Image.Image = "a@sha256:0123" }},
		{"image.image", "digest with a path", func(c config) { c.Image.Image = "a@sha256:../../../../x" }},
		{"image.image", "two digests", func(c config) { c.Image.Image = "a@" + imageID + "@" + imageID }},
		{"image.image", "long", func(c config) { c.Image.Image = long }},
		{"image.runtime_handler", "path", func(c config) { c.Image.RuntimeHandler = "a/b" }},
		{"command[0]", "empty", func(c config) { c.Command[0] = "" }},
		{"command[1]", "NUL", func(c config) { c.Command[1] = "a\x00b" }},
		{"args[1]", "NUL", func(c config) { c.Args[1] = "\x00" }},
		{"working_dir", "open file", func(c config) { c.WorkingDir = "/proc/self/fd/7" }},
		{"working_dir", "open file of a thread", func(c config) { c.WorkingDir = "/proc/thread-self/fd/8/../.." + "/fd/8" }},
		{"working_dir", "open file of a task", func(c config) { c.WorkingDir = "/proc/self/task/1/fd/8" }},
		{"working_dir", "dev", func(c config) { c.WorkingDir = "/dev/fd/9/" }},
		{"envs[0].key", "empty", func(c config) { c.Envs[0].Key = "" }},
		{"envs[0].key", "equals", func(c config) { c.Envs[0].Key = "A=B" }},
		{"envs[0].key", "NUL", func(c config) { c.Envs[0].Key = "A\x00" }},
		{"envs[1].value", "NUL", func(c config) { c.Envs[1].Value = []byte("secret\x00") }},
		{"mounts[0].container_path", "root", func(c config) { c.Mounts[0].ContainerPath = "/a/.." }},
		{"mounts[0].propagation", "unknown", func(c config) { c.Mounts[0].Propagation = 3 }},
		{"mounts[1].recursive_read_only", "not read-only", func(c config) { c.Mounts[1].Readonly = false }},
		{"mounts[1].recursive_read_only", "propagation", func(c config) {
			c.Mounts[1].Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}},
		{"mounts[3].host_path", "with an image", func(c config) { c.Mounts[3].HostPath = "/a" }},
		{"mounts[3].image.image", "malformed", func(c config) { c.Mounts[3].Image.Image = "a b" }},
		{"mounts[3].image_sub_path", "absolute", func(c config) { c.Mounts[3].ImageSubPath = "/etc" }},
		{"mounts[3].image_sub_path", "parent", func(c config) { c.Mounts[3].ImageSubPath = "a/../../b" }},
		{"mounts[0].image_sub_path", "without an image", func(c config) { c.Mounts[0].ImageSubPath = "a" }},
		{"mounts[0].uidMappings[0].length", "zero", func(c config) { c.Mounts[0].UidMappings = []*runtimeapi.IDMapping{{}} }},
		{"mounts[0].mount_options[0]", "empty", func(c config) { c.Mounts[0].MountOptions = []string{""} }},
		{"devices[0].permissions", "letter", func(c config) { c.Devices[0].Permissions = "rwx" }},
		{"devices[0].container_path", "parent", func(c config) { c.Devices[0].ContainerPath = "/dev/../etc/x" }},
		{"labels", "empty key", func(c config) { c.Labels[""] = "v" }},
		{"annotations", "empty key", func(c config) { c.Annotations = map[string]string{"": "v"} }},
		{"log_path", "absolute", func(c config) { c.LogPath = "/etc/passwd" }},
		{"log_path", "parent", func(c config) { c.LogPath = "../x.log" }},
		{"log_path", "parent inside", func(c config) { c.LogPath = "a/../../x.log" }},
		{"log_path", "no file", func(c config) { c.LogPath = "./" }},
		{"log_path", "newline", func(c config) { c.LogPath = "a\nb" }},
		{"linux.resources.cpu_period", "negative", func(c config) { c.Linux.Resources.CpuPeriod = -1 }},
		{"linux.resources.cpu_quota", "negative", func(c config) { c.Linux.Resources.CpuQuota = -2 }},
		{"linux.resources.memory_limit_in_bytes", "negative", func(c config) { c.Linux.Resources.MemoryLimitInBytes = -2 }},
		{"linux.resources.oom_score_adj", "small", func(c config) { c.Linux.Resources.OomScoreAdj = -1001 }},
		{"linux.resources.cpuset_cpus", "words", func(c config) { c.Linux.Resources.CpusetCpus = "all" }},
		{"linux.resources.cpuset_mems", "newline", func(c config) { c.Linux.Resources.CpusetMems = "0\n1" }},
		{"linux.resources.hugepage_limits[0].page_size", "empty", func(c config) { c.Linux.Resources.HugepageLimits[0].PageSize = "" }},
		{"linux.resources.hugepage_limits[0].page_size", "path", func(c config) {
			c.Linux.Resources.HugepageLimits[0].PageSize = "../2MB"
		}},
		{`linux.resources.unified["../memory.max"]`, "path", func(c config) {
			c.Linux.Resources.Unified = map[string]string{"../memory.max": "1"}
		}},
		{`linux.resources.unified["memory.max"]`, "NUL", func(c config) {
			c.Linux.Resources.Unified = map[string]string{"memory.max": "1\x00"}
		}},
		{"linux.resources.memory_swap_limit_in_bytes", "negative", func(c config) { c.Linux.Resources.MemorySwapLimitInBytes = -5 }},
		{"linux.security_context.capabilities.add_capabilities[0]", "empty", func(c config) {
			c.Linux.SecurityContext.Capabilities.AddCapabilities[0] = ""
		}},
		{"linux.security_context.capabilities.drop_capabilities[0]", "space", func(c config) {
			c.Linux.SecurityContext.Capabilities.DropCapabilities[0] = "NET RAW"
		}},
		{"linux.security_context.namespace_options.target_id", "absent", func(c config) {
			c.Linux.SecurityContext.NamespaceOptions.TargetId = ""
		}},
		{"linux.security_context.namespace_options.target_id", "path", func(c config) {
			c.Linux.SecurityContext.NamespaceOptions.TargetId = "../1"
		}},
		{"linux.security_context.selinux_options.level", "newline", func(c config) { c.Linux.SecurityContext.SelinuxOptions.Level = "s0\n" }},
		{"linux.security_context.run_as_user", "negative", func(c config) {
			c.Linux.SecurityContext.RunAsUsername = ""
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: -1}
		}},
		{"linux.security_context.run_as_user", "overflow", func(c config) {
			c.Linux.SecurityContext.RunAsUsername = ""
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1 << 32}
		}},
		{"linux.security_context.run_as_username", "with a user", func(c config) {
			c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1}
		}},
		{"linux.security_context.run_as_username", "newline", func(c config) { c.Linux.SecurityContext.RunAsUsername = "a\nroot" }},
		{"linux.security_context.run_as_username", "colon", func(c config) { c.Linux.SecurityContext.RunAsUsername = "0:0" }},
		{"linux.security_context.run_as_group", "alone", func(c config) { c.Linux.SecurityContext.RunAsUsername = "" }},
		{"linux.security_context.run_as_group", "negative", func(c config) { c.Linux.SecurityContext.RunAsGroup.Value = -1 }},
		{"linux.security_context.seccomp.localhost_ref", "relative", func(c config) {
			c.Linux.SecurityContext.Seccomp.LocalhostRef = "profiles/a.json"
		}},
		{"linux.security_context.seccomp.localhost_ref", "parent", func(c config) {
			c.Linux.SecurityContext.Seccomp.LocalhostRef = "/a/../../etc/shadow"
		}},
		{"linux.security_context.apparmor.localhost_ref", "absent", func(c config) { c.Linux.SecurityContext.Apparmor.LocalhostRef = "" }},
		{"stop_signal", "unknown", func(c config) { c.StopSignal = 66 }},
		{"CDI_devices[0].name", "empty", func(c config) { c.CDIDevices[0].Name = "" }},
	}
}

func TestMalformedExec(t *testing.T) {
	runMalformed(t, func() *runtimeapi.ExecSyncRequest {
		return &runtimeapi.ExecSyncRequest{ContainerId: "cccc", Cmd: []string{"sh", ""}, Timeout: 1}
	}, checkExecSync, []malformedCase[*runtimeapi.ExecSyncRequest]{
		{"container_id", "empty", func(r *runtimeapi.ExecSyncRequest) { r.ContainerId = "" }},
		{"container_id", "NUL", func(r *runtimeapi.ExecSyncRequest) { r.ContainerId = "a\x00" }},
		{"container_id", "long", func(r *runtimeapi.ExecSyncRequest) { r.ContainerId = long }},
		{"cmd", "empty", func(r *runtimeapi.ExecSyncRequest) { r.Cmd = nil }},
		{"cmd[0]", "empty", func(r *runtimeapi.ExecSyncRequest) { r.Cmd[0] = "" }},
		{"cmd[1]", "NUL", func(r *runtimeapi.ExecSyncRequest) { r.Cmd[1] = "\x00" }},
		{"timeout", "negative", func(r *runtimeapi.ExecSyncRequest) { r.Timeout = -1 }},
	})
	runMalformed(t, func() *runtimeapi.ExecRequest {
		return &runtimeapi.ExecRequest{ContainerId: "cccc", Cmd: []string{"sh"}, Stdin: true, Stdout: true, Tty: true}
	}, checkExec, []malformedCase[*runtimeapi.ExecRequest]{
		{"container_id", "path", func(r *runtimeapi.ExecRequest) { r.ContainerId = "a/b" }},
		{"cmd", "empty", func(r *runtimeapi.ExecRequest) { r.Cmd = nil }},
		{"stderr", "with a terminal", func(r *runtimeapi.ExecRequest) { r.Stderr = true }},
		{"stdin", "nothing attached", func(r *runtimeapi.ExecRequest) { r.Stdin, r.Stdout = false, false }},
	})
	runMalformed(t, func() *runtimeapi.AttachRequest {
		return &runtimeapi.AttachRequest{ContainerId: "cccc", Stdin: true, Tty: true}
	}, checkAttach, []malformedCase[*runtimeapi.AttachRequest]{
		{"container_id", "hidden", func(r *runtimeapi.AttachRequest) { r.ContainerId = ".cccc" }},
		{"stderr", "with a terminal", func(r *runtimeapi.AttachRequest) { r.Stderr = true }},
		{"stdin", "nothing attached", func(r *runtimeapi.AttachRequest) { r.Stdin = false }},
	})
	runMalformed(t, func() *runtimeapi.PortForwardRequest {
		return &runtimeapi.PortForwardRequest{PodSandboxId: "aaaa", Port: []int32{80, 443}}
	}, checkPortForward, []malformedCase[*runtimeapi.PortForwardRequest]{
		{"pod_sandbox_id", "empty", func(r *runtimeapi.PortForwardRequest) { r.PodSandboxId = "" }},
		{"port[1]", "zero", func(r *runtimeapi.PortForwardRequest) { r.Port[1] = 0 }},
		{"port[0]", "negative", func(r *runtimeapi.PortForwardRequest) { r.Port[0] = -80 }},
		{"port[0]", "large", func(r *runtimeapi.PortForwardRequest) { r.Port[0] = 65536 }},
	})
}

func TestMalformedChanges(t *testing.T) {
	runMalformed(t, func() *runtimeapi.StopContainerRequest {
		return &runtimeapi.StopContainerRequest{ContainerId: "c", Timeout: 1 << 62}
	}, checkStopContainer, []malformedCase[*runtimeapi.StopContainerRequest]{
		{"container_id", "empty", func(r *runtimeapi.StopContainerRequest) { r.ContainerId = "" }},
		{"timeout", "negative", func(r *runtimeapi.StopContainerRequest) { r.Timeout = -1 }},
	})
	runMalformed(t, func() *runtimeapi.UpdatePodSandboxResourcesRequest {
		return &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: "p", Overhead: &runtimeapi.LinuxContainerResources{}, Resources: &runtimeapi.LinuxContainerResources{CpuQuota: -1},
		}
	}, checkUpdateSandboxResources, []malformedCase[*runtimeapi.UpdatePodSandboxResourcesRequest]{
		{"pod_sandbox_id", "empty", func(r *runtimeapi.UpdatePodSandboxResourcesRequest) { r.PodSandboxId = "" }},
		{"pod_sandbox_id", "a path", func(r *runtimeapi.UpdatePodSandboxResourcesRequest) { r.PodSandboxId = "../p" }},
		{"overhead.cpu_period", "negative", func(r *runtimeapi.UpdatePodSandboxResourcesRequest) { r.Overhead.CpuPeriod = -1 }},
		{"resources.memory_limit_in_bytes", "negative", func(r *runtimeapi.UpdatePodSandboxResourcesRequest) { r.Resources.MemoryLimitInBytes = -2 }},
		{`resources.unified["../x"]`, "a path", func(r *runtimeapi.UpdatePodSandboxResourcesRequest) {
			r.Resources.Unified = map[string]string{"../x": "1"}
		}},
	})
	runMalformed(t, func() *runtimeapi.UpdateContainerResourcesRequest {
		return &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "c", Linux: &runtimeapi.LinuxContainerResources{CpuQuota: -1}}
	}, checkUpdateResources, []malformedCase[*runtimeapi.UpdateContainerResourcesRequest]{
		{"container_id", "empty", func(r *runtimeapi.UpdateContainerResourcesRequest) { r.ContainerId = "" }},
		{"linux", "absent", func(r *runtimeapi.UpdateContainerResourcesRequest) { r.Linux = nil }},
		{"linux.cpu_shares", "negative", func(r *runtimeapi.UpdateContainerResourcesRequest) { r.Linux.CpuShares = -1 }},
		{"annotations", "empty key", func(r *runtimeapi.UpdateContainerResourcesRequest) { r.Annotations = map[string]string{"": ""} }},
	})
}

func TestMalformedPullImage(t *testing.T) {
	type request = *runtimeapi.PullImageRequest
	runMalformed(t, func() request {
		return &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: "[fd00::1]:5000/team/app:v1@" + imageID},
			Auth:  &runtimeapi.AuthConfig{Username: "_json_key", Password: "{\n\"key\": 1\n}", ServerAddress: "https://r.example"},
		}
	}, checkPullImage, []malformedCase[request]{
		{"image.image", "absent", func(r request) { r.Image = nil }},
		{"image.image", "empty", func(r request) { r.Image.Image = "" }},
		{"image.image", "control character", func(r request) { r.Image.Image = "a\x1b" }},
		{"image.annotations", "empty key", func(r request) { r.Image.Annotations = map[string]string{"": ""} }},
		{"image.user_specified_image", "newline", func(r request) { r.Image.UserSpecifiedImage = "a\nb" }},
		{"image.image_ref", "malformed", func(r request) { r.Image.ImageRef = "a b" }},
		{"auth.username", "newline", func(r request) { r.Auth.Username = "a\r\nX-Header: b" }},
		{"auth.password", "NUL", func(r request) { r.Auth.Password = "hunter2\x00" }},
		{"auth.registry_token", "newline", func(r request) { r.Auth.RegistryToken = "hunter2\n" }},
		{"auth.identity_token", "newline", func(r request) { r.Auth.IdentityToken = "hunter2\n" }},
	})
}

func TestErrorsDoNotRepeatSecrets(t *testing.T) {
	for _, err := range []error{
		checkPullImage(&runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: "a"}, Auth: &runtimeapi.AuthConfig{RegistryToken: "hunter2\n"},
		}),
		checkEnv("envs[0]", &runtimeapi.KeyValue{Key: "A", Value: []byte("hunter2\x00")}),
	} {
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v", err)
		}
	}
}

func TestMalformedFilters(t *testing.T) {
	bad := map[string]string{"": "v"}
	for want, err := range map[string]error{
		"filter.id":             checkSandboxFilter(&runtimeapi.PodSandboxFilter{Id: "../x"}),
		"filter.state.state":    checkSandboxFilter(&runtimeapi.PodSandboxFilter{State: &runtimeapi.PodSandboxStateValue{State: 5}}),
		"filter.pod_sandbox_id": checkContainerFilter(&runtimeapi.ContainerFilter{PodSandboxId: "a b"}),
		"filter.label_selector": checkContainerFilter(&runtimeapi.ContainerFilter{LabelSelector: bad}),
	} {
		var f *fieldError
		if !errors.As(err, &f) || f.path != want {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	for _, err := range []error{
		checkContainerFilter(&runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: 99}}),
		checkContainerStatsFilter(&runtimeapi.ContainerStatsFilter{Id: "-"}),
		checkContainerStatsFilter(&runtimeapi.ContainerStatsFilter{LabelSelector: bad}),
		checkSandboxStatsFilter(&runtimeapi.PodSandboxStatsFilter{Id: "a/b"}),
		checkImageFilter("filter.image", &runtimeapi.ImageSpec{Image: "a b"}),
	} {
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("error is %v", err)
		}
	}
	for _, err := range []error{
		checkSandboxFilter(nil), checkContainerFilter(nil), checkContainerStatsFilter(nil), checkSandboxStatsFilter(nil),
		checkImageFilter("filter.image", nil), checkImageFilter("filter.image", &runtimeapi.ImageSpec{}),
		checkSandboxFilter(&runtimeapi.PodSandboxFilter{Id: "aaaa", State: &runtimeapi.PodSandboxStateValue{}}),
	} {
		if err != nil {
			t.Errorf("a good filter: %v", err)
		}
	}
}

func TestImageNames(t *testing.T) {
	for _, name := range []string{
		"busybox", "busybox:1.36", "library/busybox", "localhost:5000/a/b:v1", "registry.k8s.io/pause:3.10",
		imageID, imageID[:20], imageID[7:], imageID[7:15], "a@" + imageID, "a:v1@" + imageID, "[::1]:5000/a",
		"a@sha512:" + strings.Repeat("0", 128),
	} {
		if err := checkImageName("image", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Messages of repeated fields may be absent in Go, as in a request made by hand.
func TestChecksTakeNilMessages(t *testing.T) {
	c := goodContainerConfig()
	c.Envs = []*runtimeapi.KeyValue{nil}
	c.Mounts = []*runtimeapi.Mount{nil}
	if err := checkContainerConfig("config", c); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
	if err := checkRunPodSandbox(nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
	if err := checkCreateContainer(nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
	if err := checkSandboxConfig("config", &runtimeapi.PodSandboxConfig{
		Metadata: goodSandboxConfig().Metadata, PortMappings: []*runtimeapi.PortMapping{nil},
	}); err != nil {
		t.Errorf("error is %v", err)
	}
}
