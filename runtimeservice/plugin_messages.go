package runtimeservice

import (
	"maps"
	"slices"
	"strings"

	nriapi "github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/nri"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// podMessage is a pod as NRI plugins see it. The library and built-in plugins may
// change a message: it shares nothing with the sandbox.
func (p *pluginEvents) podMessage(sb *sandbox) *nriapi.PodSandbox {
	rec := sb.rec.Load()
	meta := sb.config.GetMetadata()
	resources := sb.resources.Load()
	pod := &nriapi.PodSandbox{
		Id:             sb.id,
		Name:           meta.GetName(),
		Uid:            meta.GetUid(),
		Namespace:      meta.GetNamespace(),
		Labels:         maps.Clone(sb.config.GetLabels()),
		Annotations:    maps.Clone(sb.config.GetAnnotations()),
		RuntimeHandler: rec.Handler,
		Ips:            slices.Clone(rec.IPs),
		Linux: &nriapi.LinuxPodSandbox{
			PodOverhead:  nriResources(resources.overhead),
			PodResources: nriResources(resources.resources),
			CgroupParent: rec.CgroupParent,
			Namespaces:   podNamespaces(rec),
		},
	}
	if rec.PodInit {
		pod.Pid = uint32(rec.InitPid)
		// Only such a pod has a process, and with it a cgroup of its own.
		pod.Linux.CgroupsPath, _ = spec.CgroupsPath(p.systemdCgroup, rec.CgroupParent, "", sb.id)
	}
	return pod
}

func podNamespaces(rec *record.Sandbox) []*nriapi.LinuxNamespace {
	var list []*nriapi.LinuxNamespace
	for _, kind := range slices.Sorted(maps.Keys(rec.Namespaces)) {
		name := kind
		if ociType, ok := ociNamespaceTypes[namespaces.Kind(kind)]; ok {
			name = string(ociType)
		}
		list = append(list, &nriapi.LinuxNamespace{Type: name, Path: rec.Namespaces[kind]})
	}
	return list
}

// nriResources are a request's limits as plugins have them; nil for none.
func nriResources(r *runtimeapi.LinuxContainerResources) *nriapi.LinuxResources {
	if r == nil {
		return nil
	}
	out := &nriapi.LinuxResources{
		Memory: &nriapi.LinuxMemory{Limit: optional(r.GetMemoryLimitInBytes()), Swap: optional(r.GetMemorySwapLimitInBytes())},
		Cpu: &nriapi.LinuxCPU{
			Quota: optional(r.GetCpuQuota()), Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems(),
		},
		Unified: maps.Clone(r.GetUnified()),
	}
	if shares := r.GetCpuShares(); shares > 0 {
		out.Cpu.Shares = &nriapi.OptionalUInt64{Value: uint64(shares)}
	}
	if period := r.GetCpuPeriod(); period > 0 {
		out.Cpu.Period = &nriapi.OptionalUInt64{Value: uint64(period)}
	}
	for _, limit := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &nriapi.HugepageLimit{PageSize: limit.GetPageSize(), Limit: limit.GetLimit()})
	}
	return out
}

func optional(n int64) *nriapi.OptionalInt64 {
	if n == 0 {
		return nil
	}
	return &nriapi.OptionalInt64{Value: n}
}

// describe is containerMessage for a container of the table; without what only its
// specification says if that cannot be read.
func (p *pluginEvents) describe(c *container) *nriapi.Container {
	rec := c.rec.Load()
	ociSpec, err := p.specs.Get(c.id)
	if err != nil {
		p.log.Error("describe container to NRI plugins", "container", c.id, "error", err)
	}
	return containerMessage(rec, wholeConfig(c), ociSpec)
}

// wholeConfig is the configuration as it came, also what a container does not keep.
func wholeConfig(c *container) *runtimeapi.ContainerConfig {
	config := &runtimeapi.ContainerConfig{}
	if err := proto.Unmarshal(c.rec.Load().Config, config); err != nil {
		return c.config // newContainer has read it
	}
	return config
}

// containerMessage is a container as NRI plugins see it; ociSpec may be nil.
func containerMessage(rec *record.Container, config *runtimeapi.ContainerConfig, ociSpec *specs.Spec) *nriapi.Container {
	c := &nriapi.Container{
		Id:            rec.ID,
		PodSandboxId:  rec.SandboxID,
		Name:          config.GetMetadata().GetName(),
		State:         nriState(rec.State),
		Labels:        maps.Clone(config.GetLabels()),
		Annotations:   maps.Clone(config.GetAnnotations()),
		Pid:           uint32(rec.Pid),
		CreatedAt:     rec.CreatedAt,
		StartedAt:     rec.StartedAt,
		FinishedAt:    rec.FinishedAt,
		ExitCode:      rec.ExitCode,
		StatusReason:  rec.Reason,
		StatusMessage: rec.Message,
		Image:         &nriapi.Image{Name: rec.ImageName, ConfigDigest: rec.ImageID},
	}
	if _, digest, ok := strings.Cut(rec.ImageRef, "@"); ok {
		c.Image.Digest = digest
	}
	for _, device := range config.GetCDIDevices() {
		c.CDIDevices = append(c.CDIDevices, &nriapi.CDIDevice{Name: device.GetName()})
	}
	if ociSpec != nil {
		nri.Describe(c, ociSpec)
		c.Linux.SeccompProfile = seccompProfile(config.GetLinux().GetSecurityContext(), ociSpec)
	}
	return c
}

// seccompProfile tells which profile was asked for. Where none was, the
// specification tells whether the configuration's default filters.
func seccompProfile(sc *runtimeapi.LinuxContainerSecurityContext, ociSpec *specs.Spec) *nriapi.SecurityProfile {
	profile := &nriapi.SecurityProfile{ProfileType: nriapi.SecurityProfile_UNCONFINED}
	switch asked := sc.GetSeccomp(); {
	case asked == nil && ociSpec.Linux.Seccomp != nil, asked != nil && asked.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault:
		profile.ProfileType = nriapi.SecurityProfile_RUNTIME_DEFAULT
	case asked != nil && asked.GetProfileType() == runtimeapi.SecurityProfile_Localhost:
		profile.ProfileType, profile.LocalhostRef = nriapi.SecurityProfile_LOCALHOST, asked.GetLocalhostRef()
	}
	return profile
}

func nriState(state record.State) nriapi.ContainerState {
	switch state {
	case record.Creating, record.Created:
		return nriapi.ContainerState_CONTAINER_CREATED
	case record.Running:
		return nriapi.ContainerState_CONTAINER_RUNNING
	case record.Exited, record.Removing:
		return nriapi.ContainerState_CONTAINER_STOPPED
	default:
		return nriapi.ContainerState_CONTAINER_UNKNOWN
	}
}
