package spec

import (
	"context"
	"errors"
	"fmt"
	"path"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const resourcesField = "config.linux.resources"

// Build makes the specification of a container. It changes nothing, neither in
// the input nor on the node, so it may be repeated.
//
// Errors begin with the path of the field at fault and are InvalidArgument for a
// malformed request, NotFound for a mount source, device or profile that is not
// on the node, and FailedPrecondition for what this node or pod cannot give. A look
// at a path of the node that does not come back ends with ctx.
//
// The result shares lists with the input and, for the default seccomp profile,
// with other results: one who edits it replaces them.
func Build(ctx context.Context, in Input) (*specs.Spec, *Resolved, error) {
	if err := in.check(); err != nil {
		return nil, nil, err
	}
	img := &ocispec.ImageConfig{}
	if in.Image != nil {
		img = &in.Image.Config
	}
	r := &Resolved{Mounts: statusMounts(in.Container.GetMounts(), in.ImageMounts)}
	note := func(s string) { r.Notes = append(r.Notes, s) }

	proc, err := buildProcess(&in, img, r, note)
	if err != nil {
		return nil, nil, err
	}
	linux, mounts, err := buildLinux(ctx, &in, proc.Capabilities)
	if err != nil {
		return nil, nil, err
	}
	return &specs.Spec{
		Version:     specs.Version,
		Process:     proc,
		Root:        &specs.Root{Path: in.Rootfs, Readonly: readonlyRootfs(&in)},
		Mounts:      mounts,
		Annotations: passedAnnotations(&in),
		Linux:       linux,
	}, r, nil
}

// check refuses an input that no request can be blamed for, then a request that
// is contradictory as a whole.
func (in *Input) check() error {
	switch {
	case in.Host == nil:
		return errors.New("build specification: no host limits")
	case !path.IsAbs(in.Rootfs):
		return fmt.Errorf("build specification: root file system %q is not an absolute path", in.Rootfs)
	case in.Container == nil:
		return invalid("config", "missing")
	case in.Sandbox == nil:
		return invalid("sandbox_config", "missing")
	}
	return checkPrivileged(in)
}

// buildProcess makes the container's first process and fills in what of it the
// status shows.
func buildProcess(in *Input, img *ocispec.ImageConfig, r *Resolved, note func(string)) (*specs.Process, error) {
	sc := in.Container.GetLinux().GetSecurityContext()
	argv, err := commandLine(in.Container, img)
	if err != nil {
		return nil, err
	}
	id, err := resolveUser(in.Rootfs, sc, img.User)
	if err != nil {
		return nil, err
	}
	if err := id.checkMapped(podUserNamespace(in)); err != nil {
		return nil, err
	}
	r.User = id.cri()
	if r.StopSignal, err = stopSignal(in.Container, img.StopSignal); err != nil {
		return nil, err
	}
	env, err := environ(in, img, id.home)
	if err != nil {
		return nil, err
	}
	cwd, err := workingDir(in.Container, img)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(in, note)
	if err != nil {
		return nil, err
	}
	limits, err := rlimits(in, note)
	if err != nil {
		return nil, err
	}
	score, err := OOMScoreAdj(resourcesField, in.Container.GetLinux().GetResources(), in.Host, note)
	if err != nil {
		return nil, err
	}
	profile, err := appArmorProfile(in)
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		Terminal:        in.Container.GetTty(),
		User:            id.oci(),
		Args:            argv,
		Env:             env,
		Cwd:             cwd,
		Capabilities:    caps,
		Rlimits:         limits,
		NoNewPrivileges: sc.GetNoNewPrivs(),
		ApparmorProfile: profile,
		SelinuxLabel:    processLabel(in),
		OOMScoreAdj:     &score,
	}, nil
}

// buildLinux makes the Linux part of the specification, and the mounts, whose
// propagation it has to allow for.
func buildLinux(ctx context.Context, in *Input, caps *specs.LinuxCapabilities) (*specs.Linux, []specs.Mount, error) {
	m, err := namespaceModes(in.Sandbox, in.Container.GetLinux().GetSecurityContext())
	if err != nil {
		return nil, nil, err
	}
	ns, err := ociNamespaces(m, in.Namespaces, cgroupNamespace(in))
	if err != nil {
		return nil, nil, err
	}
	resources, err := containerResources(in)
	if err != nil {
		return nil, nil, err
	}
	masked, readonly, err := hiddenPaths(in)
	if err != nil {
		return nil, nil, err
	}
	filter, err := seccompProfile(ctx, in, caps)
	if err != nil {
		return nil, nil, err
	}
	mounts, err := buildMounts(ctx, in, m)
	if err != nil {
		return nil, nil, err
	}
	devices, err := buildDevices(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	resources.Devices = devices.rules
	mounts.mounts = append(mounts.mounts, devices.mounts...)
	return &specs.Linux{
		Namespaces:        ns,
		UIDMappings:       ociMappings(m.user.GetUids()),
		GIDMappings:       ociMappings(m.user.GetGids()),
		Devices:           devices.nodes,
		Resources:         resources,
		CgroupsPath:       in.CgroupsPath,
		Seccomp:           filter,
		MountLabel:        in.FileLabel,
		RootfsPropagation: mounts.rootPropagation,
		MaskedPaths:       masked,
		ReadonlyPaths:     readonly,
	}, mounts.mounts, nil
}

func readonlyRootfs(in *Input) bool {
	return in.Defaults.ReadonlyRootfs || in.Container.GetLinux().GetSecurityContext().GetReadonlyRootfs()
}

// cgroupNamespace tells whether a container has a cgroup namespace of its own.
// On cgroup v1 none has, as with other runtimes: programs there match
// /proc/self/cgroup with the mounts of the node's hierarchies. A privileged one
// is to see the node's cgroups.
func cgroupNamespace(in *Input) bool { return in.Host.CgroupV2 && !privileged(in.Container) }

func containerResources(in *Input) (*specs.LinuxResources, error) {
	resources, err := LinuxResources(resourcesField, in.Container.GetLinux().GetResources(), in.Host)
	if err != nil {
		return nil, err
	}
	if in.Defaults.PidsLimit > 0 {
		limit := in.Defaults.PidsLimit
		resources.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return resources, nil
}
