package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Requests as a kubelet or crictl sends them; tests change one thing at a time.

func goodSandboxConfig() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "web-0", Uid: "0f5e8d2c-7d7c-4b0f-9a4b-3f3c1f6a2b11", Namespace: "default", Attempt: 1},
		Hostname:     "web-0",
		LogDirectory: "/var/log/pods/default_web-0_0f5e8d2c",
		DnsConfig: &runtimeapi.DNSConfig{
			Servers:  []string{"10.96.0.10", "fd00::a", "fe80::1%eth0"},
			Searches: []string{"default.svc.cluster.local", "."},
			Options:  []string{"ndots:5"},
		},
		PortMappings: []*runtimeapi.PortMapping{
			{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1"},
			{Protocol: runtimeapi.Protocol_SCTP, ContainerPort: 81},
		},
		Labels:      map[string]string{"app.kubernetes.io/name": "web"},
		Annotations: map[string]string{"note": "two\nlines", "kubernetes.io/config.source": "file"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/burstable/pod0f5e8d2c",
			Sysctls: map[string]string{
				"net.ipv4.ip_local_port_range": "1024\t65535", "kernel.shm_rmid_forced": "1",
				"net/ipv4/tcp_syncookies": "1", "net.ipv4.conf.eth0/1.forwarding": "0",
			},
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{
					Pid:           runtimeapi.NamespaceMode_CONTAINER,
					UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE},
				},
				RunAsUser: &runtimeapi.Int64Value{Value: 1000}, RunAsGroup: &runtimeapi.Int64Value{Value: 1000},
				SupplementalGroups: []int64{2000},
				Seccomp:            &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
			Overhead:  &runtimeapi.LinuxContainerResources{},
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: 1 << 20},
		},
	}
}

func goodContainerConfig() *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: "nginx", Attempt: 2},
		Image:      &runtimeapi.ImageSpec{Image: imageID, UserSpecifiedImage: "nginx:1.29"},
		Command:    []string{"/bin/sh", "-c"},
		Args:       []string{"", "echo \"hello\nworld\""},
		WorkingDir: "/srv/data",
		Envs: []*runtimeapi.KeyValue{
			{Key: "PATH", Value: []byte("/bin")}, {Key: "a.b-c", Value: []byte("x=y\n\xff")}, {Key: "EMPTY"},
		},
		Mounts: []*runtimeapi.Mount{
			{ContainerPath: "/etc/hosts", HostPath: "/var/lib/kubelet/pods/x/etc-hosts"},
			{ContainerPath: "/data dir", HostPath: "/mnt/a", Readonly: true, RecursiveReadOnly: true},
			{ContainerPath: "/shared", HostPath: "/mnt/b", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
			{ContainerPath: "/model", Image: &runtimeapi.ImageSpec{Image: "registry.local:5000/model@" + imageID}, ImageSubPath: "weights/v1"},
		},
		Devices: []*runtimeapi.Device{{ContainerPath: "/dev/fuse", HostPath: "/dev/fuse", Permissions: "mrw"}},
		Labels:  map[string]string{"io.kubernetes.container.name": "nginx"},
		LogPath: "nginx/0.log",
		Stdin:   true,
		Tty:     true,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 999,
				CpusetCpus: "0-1,3", CpusetMems: "0", MemorySwapLimitInBytes: 64 << 20,
				HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}},
				Unified:        map[string]string{"memory.high": "1000000", "io.max": "8:0 rbps=1\n8:16 wbps=2", "hugetlb.2MB.max": "0"},
			},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				Capabilities:     &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}},
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: containerID},
				SelinuxOptions:   &runtimeapi.SELinuxOption{Level: "s0:c1,c2"},
				RunAsUsername:    "www-data",
				RunAsGroup:       &runtimeapi.Int64Value{Value: 33},
				MaskedPaths:      []string{"/proc/kcore"},
				ReadonlyPaths:    []string{"/proc/sys"},
				Seccomp: &runtimeapi.SecurityProfile{
					ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/var/lib/kubelet/seccomp/a.json",
				},
				Apparmor: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "k8s-nginx"},
			},
		},
		CDIDevices: []*runtimeapi.CDIDevice{{Name: "vendor.com/gpu=0"}},
		StopSignal: runtimeapi.Signal_SIGNAL_SIGUSR1,
	}
}

func goodRunPodSandbox() *runtimeapi.RunPodSandboxRequest {
	return &runtimeapi.RunPodSandboxRequest{Config: goodSandboxConfig(), RuntimeHandler: "kata-qemu"}
}

func goodCreateContainer() *runtimeapi.CreateContainerRequest {
	return &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandboxID, Config: goodContainerConfig(), SandboxConfig: goodSandboxConfig(),
	}
}
