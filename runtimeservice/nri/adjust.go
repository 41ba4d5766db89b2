package nri

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Adjuster applies what plugins want of a container to its specification. The
// functions stand for what only the runtime knows; where one is absent an adjustment
// that needs it is ErrFailedPrecondition.
type Adjuster struct {
	// InjectCDI edits the specification for CDI devices, named in full.
	InjectCDI func(spec *specs.Spec, devices []string) error
	// BlockIO and RDT find what the node's configuration says of a class.
	BlockIO func(class string) (*specs.LinuxBlockIO, error)
	RDT     func(class string) (*specs.LinuxIntelRdt, error)
	// RequirePropagation fails for a source whose mount cannot carry the propagation:
	// both ways needs a shared mount, else a slave one will do. May be nil.
	RequirePropagation func(source string, bothWays bool) error
	// Relabel gives the files of a mount the container's SELinux label. May be nil.
	Relabel func(source string) error
}

// Adjust returns the specification as it is to be. The one that is given does not
// change, and may share lists with others. Marks of removal are obeyed as the
// library's documentation has them: a name with "-" in front. Errors are
// ErrInvalidArgument for a malformed adjustment, or ErrFailedPrecondition.
func (a Adjuster) Adjust(spec *specs.Spec, adjust *api.ContainerAdjustment) (*specs.Spec, error) {
	if adjust == nil {
		return spec, nil
	}
	next := editable(spec)
	adjustAnnotations(next, adjust.GetAnnotations())
	next.Process.Env = adjustEnv(next.Process.Env, adjust.GetEnv())
	if args := adjust.GetArgs(); len(args) > 0 {
		next.Process.Args = slices.Clone(args)
	}
	next.Hooks = addHooks(next.Hooks, adjust.GetHooks())
	for _, step := range []func(*specs.Spec, *api.ContainerAdjustment) error{
		a.injectCDI, a.adjustLinux, a.adjustMounts, adjustRlimits,
	} {
		if err := step(next, adjust); err != nil {
			return nil, fmt.Errorf("adjust specification as NRI plugins want: %w", err)
		}
	}
	return next, nil
}

// editable is a copy with lists and maps of its own, as far as adjustments and CDI
// change them.
func editable(spec *specs.Spec) *specs.Spec {
	next := *spec
	next.Annotations = maps.Clone(spec.Annotations)
	next.Mounts = slices.Clone(spec.Mounts)
	process := *spec.Process
	process.Env = slices.Clone(process.Env)
	process.Rlimits = slices.Clone(process.Rlimits)
	process.User.AdditionalGids = slices.Clone(process.User.AdditionalGids)
	next.Process = &process
	linux := *spec.Linux
	linux.Namespaces = slices.Clone(linux.Namespaces)
	linux.Devices = slices.Clone(linux.Devices)
	linux.Sysctl = maps.Clone(linux.Sysctl)
	linux.NetDevices = maps.Clone(linux.NetDevices)
	resources := specs.LinuxResources{}
	if linux.Resources != nil {
		resources = *linux.Resources
	}
	resources.Devices = slices.Clone(resources.Devices)
	linux.Resources = &resources
	if linux.IntelRdt != nil {
		rdt := *linux.IntelRdt
		linux.IntelRdt = &rdt
	}
	next.Linux = &linux
	if spec.Hooks != nil {
		hooks := *spec.Hooks
		next.Hooks = &hooks
	}
	return &next
}

func adjustAnnotations(spec *specs.Spec, annotations map[string]string) {
	spec.Annotations = adjustMap(spec.Annotations, annotations, func(v string) string { return v })
}

// adjustMap removes what is marked, then sets the rest: a name that one plugin removed
// and another set again is in the changes both ways.
func adjustMap[From, To any](m map[string]To, changes map[string]From, convert func(From) To) map[string]To {
	if len(changes) > 0 && m == nil {
		m = make(map[string]To, len(changes))
	}
	for name := range changes {
		if removed, marked := api.IsMarkedForRemoval(name); marked {
			delete(m, removed)
		}
	}
	for name, value := range changes {
		if _, marked := api.IsMarkedForRemoval(name); !marked {
			m[name] = convert(value)
		}
	}
	return m
}

// adjustEnv changes a variable where it is, so that the order stays.
func adjustEnv(env []string, changes []*api.KeyValue) []string {
	for _, change := range changes {
		name, removed := change.IsMarkedForRemoval()
		at := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") || v == name })
		switch {
		case removed && at >= 0:
			env = slices.Delete(env, at, at+1)
		case removed:
		case at >= 0:
			env[at] = name + "=" + change.GetValue()
		default:
			env = append(env, name+"="+change.GetValue())
		}
	}
	return env
}

// addHooks appends to the lists, which others may share.
func addHooks(hooks *specs.Hooks, more *api.Hooks) *specs.Hooks {
	if more.Hooks() == nil {
		return hooks
	}
	if hooks == nil {
		hooks = &specs.Hooks{}
	}
	for _, list := range []struct {
		to   *[]specs.Hook
		from []*api.Hook
	}{
		//lint:ignore SA1019 deprecated, and plugins still ask for it
		{&hooks.Prestart, more.GetPrestart()},
		{&hooks.CreateRuntime, more.GetCreateRuntime()},
		{&hooks.CreateContainer, more.GetCreateContainer()},
		{&hooks.StartContainer, more.GetStartContainer()},
		{&hooks.Poststart, more.GetPoststart()},
		{&hooks.Poststop, more.GetPoststop()},
	} {
		all := slices.Clone(*list.to)
		for _, hook := range list.from {
			all = append(all, hook.ToOCI())
		}
		*list.to = all
	}
	return hooks
}

func (a Adjuster) injectCDI(spec *specs.Spec, adjust *api.ContainerAdjustment) error {
	var names []string
	for _, device := range adjust.GetCDIDevices() {
		names = append(names, device.GetName())
	}
	if len(names) == 0 {
		return nil
	}
	if a.InjectCDI == nil {
		return fmt.Errorf("CDI devices %s: this runtime has none: %w", strings.Join(names, ", "), errdefs.ErrFailedPrecondition)
	}
	return a.InjectCDI(spec, names)
}

// adjustMounts replaces what is mounted at the same place. Mounts are ordered by the
// depth of where they go, so that none hides a deeper one.
func (a Adjuster) adjustMounts(spec *specs.Spec, adjust *api.ContainerAdjustment) error {
	if len(adjust.GetMounts()) == 0 {
		return nil
	}
	for _, m := range adjust.GetMounts() {
		destination, removed := m.IsMarkedForRemoval()
		if !path.IsAbs(destination) {
			return invalid("mount at %q: not an absolute path", destination)
		}
		spec.Mounts = slices.DeleteFunc(spec.Mounts, func(have specs.Mount) bool {
			return path.Clean(have.Destination) == path.Clean(destination)
		})
		if removed {
			continue
		}
		mount := m.ToOCI(nil)
		if err := a.relabel(&mount); err != nil {
			return err
		}
		if err := a.allowPropagation(spec, mount); err != nil {
			return err
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	slices.SortStableFunc(spec.Mounts, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return nil
}

// relabel obeys a mark for relabelling, which is no option of a mount.
func (a Adjuster) relabel(mount *specs.Mount) error {
	asked := slices.Contains(mount.Options, api.SELinuxRelabel)
	mount.Options = slices.DeleteFunc(mount.Options, func(o string) bool { return o == api.SELinuxRelabel })
	if !asked || a.Relabel == nil {
		return nil
	}
	if err := a.Relabel(mount.Source); err != nil {
		return fmt.Errorf("mount at %q: %w", mount.Destination, err)
	}
	return nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

// allowPropagation makes the root file system's propagation one that lets the
// mount's own happen.
func (a Adjuster) allowPropagation(spec *specs.Spec, mount specs.Mount) error {
	var inward, bothWays bool
	for _, option := range mount.Options {
		switch option {
		case "shared", "rshared":
			bothWays = true
		case "slave", "rslave":
			inward = true
		}
	}
	if !inward && !bothWays {
		return nil
	}
	if a.RequirePropagation != nil {
		if err := a.RequirePropagation(mount.Source, bothWays); err != nil {
			return fmt.Errorf("mount at %q: %w", mount.Destination, err)
		}
	}
	switch {
	case bothWays:
		spec.Linux.RootfsPropagation = "rshared"
	case spec.Linux.RootfsPropagation != "rshared" && spec.Linux.RootfsPropagation != "shared":
		spec.Linux.RootfsPropagation = "rslave"
	}
	return nil
}

func adjustRlimits(spec *specs.Spec, adjust *api.ContainerAdjustment) error {
	for _, limit := range adjust.GetRlimits() {
		if limit.GetSoft() > limit.GetHard() {
			return invalid("%s: soft limit %d is above the hard one, %d", limit.GetType(), limit.GetSoft(), limit.GetHard())
		}
		next := specs.POSIXRlimit{Type: limit.GetType(), Soft: limit.GetSoft(), Hard: limit.GetHard()}
		at := slices.IndexFunc(spec.Process.Rlimits, func(have specs.POSIXRlimit) bool { return have.Type == next.Type })
		if at >= 0 {
			spec.Process.Rlimits[at] = next
		} else {
			spec.Process.Rlimits = append(spec.Process.Rlimits, next)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
