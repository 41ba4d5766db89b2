package spec

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/hostpath"
)

const (
	// maxSeccompSets bounds for how many capability sets the default profile is
	// kept: pods choose them.
	maxSeccompSets = 64
)

// seccompCache keeps the default profile as it came out for a capability set:
// working it out takes longer than all the rest of Build.
type seccompCache struct {
	mu    sync.Mutex
	bySet map[string]*specs.LinuxSeccomp
}

// defaultProfile gives the default profile for a capability set, shared: it is
// not to be changed.
func (c *seccompCache) defaultProfile(caps *specs.LinuxCapabilities) (*specs.LinuxSeccomp, error) {
	key := strings.Join(caps.Bounding, " ")
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.bySet[key]; ok {
		return p, nil
	}
	p, err := seccomp.GetDefaultProfile(processWith(caps))
	if err != nil {
		return nil, fmt.Errorf("work out the default seccomp profile: %w", err)
	}
	if c.bySet == nil {
		c.bySet = make(map[string]*specs.LinuxSeccomp)
	}
	if len(c.bySet) < maxSeccompSets {
		c.bySet[key] = p
	}
	return p, nil
}

// processWith is the part of a specification that profiles depend on.
func processWith(caps *specs.LinuxCapabilities) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: caps}}
}

// profileChoice is a seccomp or AppArmor profile that a request asks for.
type profileChoice struct {
	field string
	kind  runtimeapi.SecurityProfile_ProfileType
	ref   string
	set   bool // false: the request says nothing
}

// chooseProfile reads a profile from its field, or from the deprecated string
// that older clients send.
func chooseProfile(field string, p *runtimeapi.SecurityProfile, oldField, old string) (profileChoice, error) {
	if p != nil {
		c := profileChoice{field: field, kind: p.GetProfileType(), ref: p.GetLocalhostRef(), set: true}
		if _, known := runtimeapi.SecurityProfile_ProfileType_name[int32(c.kind)]; !known {
			return c, invalid(field+".profile_type", "unknown type %d", c.kind)
		}
		if (c.kind == runtimeapi.SecurityProfile_Localhost) != (c.ref != "") {
			return c, invalid(field+".localhost_ref", "%q with profile type %s", c.ref, c.kind)
		}
		return c, nil
	}
	c := profileChoice{field: oldField, set: old != ""}
	switch ref, local := strings.CutPrefix(old, "localhost/"); {
	case local && ref != "":
		c.kind, c.ref = runtimeapi.SecurityProfile_Localhost, ref
	case old == "" || old == "unconfined":
		c.kind = runtimeapi.SecurityProfile_Unconfined
	case old == "runtime/default", old == "docker/default":
		c.kind = runtimeapi.SecurityProfile_RuntimeDefault
	default:
		return c, invalid(oldField, "%q is not a profile", old)
	}
	return c, nil
}

// seccompProfile gives the container's filter; nil is none. A privileged
// container has none.
func seccompProfile(ctx context.Context, in *Input, caps *specs.LinuxCapabilities) (*specs.LinuxSeccomp, error) {
	sc := in.Container.GetLinux().GetSecurityContext()
	//lint:ignore SA1019 clients still send it
	old := sc.GetSeccompProfilePath()
	choice, err := chooseProfile(securityContextField+".seccomp", sc.GetSeccomp(), securityContextField+".seccomp_profile_path", old)
	if err != nil {
		return nil, err
	}
	if !choice.set && in.Defaults.SeccompUnset == SeccompRuntimeDefault {
		choice.kind = runtimeapi.SecurityProfile_RuntimeDefault
	}
	if choice.kind == runtimeapi.SecurityProfile_Localhost && !path.IsAbs(choice.ref) {
		return nil, invalid(choice.field, "%q is not an absolute path", choice.ref)
	}
	switch {
	case sc.GetPrivileged():
		return nil, nil
	case choice.kind == runtimeapi.SecurityProfile_RuntimeDefault && in.Defaults.SeccompFile != "":
		return localProfile(ctx, in.Host.paths(), choice.field, in.Defaults.SeccompFile, caps)
	case choice.kind == runtimeapi.SecurityProfile_RuntimeDefault:
		return in.Host.seccomp.defaultProfile(caps)
	case choice.kind == runtimeapi.SecurityProfile_Localhost:
		return localProfile(ctx, in.Host.paths(), choice.field, choice.ref, caps)
	}
	return nil, nil
}

// localProfile reads a profile from the node, in the format of moby/profiles,
// which includes that of the runtime specification.
func localProfile(ctx context.Context, paths *hostpath.Resolver, field, name string, caps *specs.LinuxCapabilities) (*specs.LinuxSeccomp, error) {
	body, err := paths.Read(ctx, name)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EFBIG) {
		return nil, invalid(field, "seccomp profile %q is not a regular file of at most %d bytes", name, hostpath.MaxFile)
	}
	if err != nil {
		return nil, hostPathError(ctx, field, name, err)
	}
	p, err := seccomp.LoadProfile(string(body), processWith(caps))
	if err != nil {
		return nil, invalid(field, "seccomp profile %q: %v", name, err)
	}
	if p == nil || p.DefaultAction == "" {
		return nil, invalid(field, "seccomp profile %q has no default action", name)
	}
	return p, nil
}
