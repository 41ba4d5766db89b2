package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runConfig is what `berth run` asks the runtime for.
type runConfig struct {
	pod       *runtimeapi.PodSandboxConfig
	container *runtimeapi.ContainerConfig
}

// newRunConfig checks all flags before anything is made.
func newRunConfig(f *runFlags, ref string, command []string) (*runConfig, error) {
	name := f.name
	if name == "" {
		name = nameFromImage(ref)
	}
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("name %q is not of letters, digits, '.', '_' and '-'", name)
	}
	uid, err := newUID()
	if err != nil {
		return nil, err
	}
	labels, err := parsePairs("label", f.labels)
	if err != nil {
		return nil, err
	}
	annotations, err := parsePairs("annotation", f.annotations)
	if err != nil {
		return nil, err
	}
	// The labels by which crictl finds the pod's name.
	maps.Copy(labels, map[string]string{
		labelRun:                       "true",
		"io.kubernetes.pod.name":       name,
		"io.kubernetes.pod.namespace":  runNamespace,
		"io.kubernetes.pod.uid":        uid,
		"io.kubernetes.container.name": name,
	})
	namespaces, err := parseNamespaces(f)
	if err != nil {
		return nil, err
	}
	meta := &runtimeapi.PodSandboxMetadata{Name: name, Namespace: runNamespace, Uid: uid}
	pod, err := podConfig(f, meta, labels, annotations, namespaces)
	if err != nil {
		return nil, err
	}
	container, err := containerConfig(f, name, labels, annotations, command, namespaces)
	if err != nil {
		return nil, err
	}
	return &runConfig{pod: pod, container: container}, nil
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// nameFromImage is the last part of the image's name and a random end.
func nameFromImage(ref string) string {
	base, _, _ := strings.Cut(path.Base(ref), "@")
	base, _, _ = strings.Cut(base, ":")
	if !validName.MatchString(base) || len(base) > 40 {
		base = "run"
	}
	return base + "-" + strings.ToLower(rand.Text()[:5])
}

// newUID makes a random (version 4) UUID.
func newUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make a UID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-"), nil
}

func parseNamespaces(f *runFlags) (*runtimeapi.NamespaceOption, error) {
	modes := map[string]runtimeapi.NamespaceMode{
		"pod": runtimeapi.NamespaceMode_POD, "container": runtimeapi.NamespaceMode_CONTAINER, "host": runtimeapi.NamespaceMode_NODE,
	}
	option := &runtimeapi.NamespaceOption{}
	for _, ns := range []struct {
		flag, value string
		allowed     []string
		to          *runtimeapi.NamespaceMode
	}{
		{"net", f.net, []string{"pod", "host"}, &option.Network},
		{"pid", f.pid, []string{"container", "pod", "host"}, &option.Pid},
		{"ipc", f.ipc, []string{"pod", "host"}, &option.Ipc},
	} {
		found := false
		for _, allowed := range ns.allowed {
			if ns.value == allowed {
				*ns.to, found = modes[allowed], true
			}
		}
		if !found {
			return nil, fmt.Errorf("--%s %q is none of %s", ns.flag, ns.value, strings.Join(ns.allowed, ", "))
		}
	}
	return option, nil
}

func podConfig(f *runFlags, meta *runtimeapi.PodSandboxMetadata, labels, annotations map[string]string, namespaces *runtimeapi.NamespaceOption) (*runtimeapi.PodSandboxConfig, error) {
	sysctls, err := parsePairs("sysctl", f.sysctls)
	if err != nil {
		return nil, err
	}
	logRoot, err := filepath.Abs(f.logRoot)
	if err != nil {
		return nil, fmt.Errorf("--log-dir: %w", err)
	}
	seccomp, err := parseSeccomp(f)
	if err != nil {
		return nil, err
	}
	pod := &runtimeapi.PodSandboxConfig{
		Metadata: meta, Labels: labels, Annotations: annotations,
		Hostname: f.hostname, LogDirectory: runLogDirectory(logRoot, meta),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: f.cgroupParent, Sysctls: sysctls,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces, Privileged: f.privileged, Seccomp: seccomp,
			},
		},
	}
	if namespaces.Network == runtimeapi.NamespaceMode_POD && pod.Hostname == "" {
		pod.Hostname = meta.Name
	}
	if len(f.dns)+len(f.dnsSearch)+len(f.dnsOptions) > 0 {
		pod.DnsConfig = &runtimeapi.DNSConfig{Servers: f.dns, Searches: f.dnsSearch, Options: f.dnsOptions}
	}
	for _, arg := range f.publish {
		ports, err := parsePublish(arg)
		if err != nil {
			return nil, err
		}
		pod.PortMappings = append(pod.PortMappings, ports...)
	}
	if len(pod.PortMappings) > 0 && namespaces.Network == runtimeapi.NamespaceMode_NODE {
		return nil, fmt.Errorf("--publish and --net host exclude each other: the container's ports are the host's")
	}
	return pod, nil
}

func parseSeccomp(f *runFlags) (*runtimeapi.SecurityProfile, error) {
	switch {
	case f.privileged || f.seccomp == "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case f.seccomp == "default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	}
	file, err := filepath.Abs(f.seccomp)
	if err != nil {
		return nil, fmt.Errorf("--seccomp: %w", err)
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}, nil
}

func containerConfig(f *runFlags, name string, labels, annotations map[string]string, command []string, namespaces *runtimeapi.NamespaceOption) (*runtimeapi.ContainerConfig, error) {
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Labels:   labels, Annotations: maps.Clone(annotations),
		Args: command, WorkingDir: f.workdir, LogPath: runLogFile,
		Stdin: f.interactive, Tty: f.tty,
		// The end of a piped input has to reach the container. A terminal's
		// input stays open, so that one can detach and attach again.
		StdinOnce: f.interactive && !f.tty && !f.detach,
	}
	if f.entrypoint != "" {
		c.Command = []string{f.entrypoint}
	}
	if f.interactive {
		c.Annotations[annotationStdin] = "true"
	}
	if f.tty {
		c.Annotations[annotationTTY] = "true"
	}
	var err error
	if c.Envs, err = parseEnv(f.envFiles, f.env); err != nil {
		return nil, err
	}
	if f.tty {
		c.Envs = append([]*runtimeapi.KeyValue{{Key: "TERM", Value: []byte("xterm")}}, c.Envs...)
	}
	for _, arg := range f.volumes {
		m, err := parseVolume(arg)
		if err != nil {
			return nil, err
		}
		c.Mounts = append(c.Mounts, m)
	}
	for _, arg := range f.devices {
		d, err := parseDevice(arg)
		if err != nil {
			return nil, err
		}
		c.Devices = append(c.Devices, d)
	}
	if c.StopSignal, err = parseStopSignal(f.stopSignal); err != nil {
		return nil, err
	}
	c.Linux, err = linuxConfig(f, namespaces)
	return c, err
}

func linuxConfig(f *runFlags, namespaces *runtimeapi.NamespaceOption) (*runtimeapi.LinuxContainerConfig, error) {
	seccomp, err := parseSeccomp(f)
	if err != nil {
		return nil, err
	}
	sc := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:   namespaces,
		Privileged:         f.privileged,
		ReadonlyRootfs:     f.readOnly,
		NoNewPrivs:         f.noNewPrivileges,
		SupplementalGroups: f.supplementalGroups,
		Seccomp:            seccomp,
		Capabilities:       &runtimeapi.Capability{AddCapabilities: f.capAdd, DropCapabilities: f.capDrop},
	}
	if !f.privileged {
		sc.MaskedPaths, sc.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	if err := setUser(sc, f.user); err != nil {
		return nil, err
	}
	resources, err := parseResources(f.cpus, f.memory, f.cpuset)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.LinuxContainerConfig{Resources: resources, SecurityContext: sc}, nil
}

// maskedPaths are those that a kubelet masks for a pod with the default
// procMount: CRI masks nothing that is not asked for.
func maskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
