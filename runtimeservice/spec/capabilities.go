package spec

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultCapabilities are what a container has that asks for nothing else, the
// same as with Docker and containerd.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// knownCapabilities numbers all that this version knows, in the kernel's order.
var knownCapabilities = sync.OnceValue(func() map[string]int {
	known := make(map[string]int)
	for _, c := range capability.ListKnown() {
		known["CAP_"+strings.ToUpper(c.String())] = int(c)
	}
	return known
})

// capabilitySet is a set that lists itself in the kernel's order.
type capabilitySet uint64

func (s capabilitySet) list() []string {
	if s == 0 {
		return nil
	}
	names := make([]string, 0, 16)
	for _, c := range capability.ListKnown() {
		if s&(1<<c) != 0 {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return names
}

// parseCapabilities reads a list of names; all is true if one of them is "ALL".
func parseCapabilities(field string, names []string) (set capabilitySet, all bool, err error) {
	known := knownCapabilities()
	for i, name := range names {
		upper := strings.ToUpper(name)
		if upper == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(upper, "CAP_") {
			upper = "CAP_" + upper
		}
		n, ok := known[upper]
		if !ok {
			return 0, false, invalid(field+"["+strconv.Itoa(i)+"]", "unknown capability %q", name)
		}
		set |= 1 << n
	}
	return set, all, nil
}

// capabilities gives the process's capability sets. "ALL" stands for all of the
// list it is in; a capability both added and dropped by name is dropped. None
// are inheritable but ambient ones, for which the kernel demands it: a
// non-empty inheritable set would let files grant what was dropped. What the
// daemon itself may not have is left out and told to note.
func capabilities(in *Input, note func(string)) (*specs.LinuxCapabilities, error) {
	const field = securityContextField + ".capabilities"
	available, _, err := parseCapabilities("host capabilities", in.Host.Capabilities)
	if err != nil {
		return nil, err
	}
	if privileged(in.Container) {
		all := available.list()
		return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}, nil
	}
	defaults := in.Defaults.Capabilities
	if defaults == nil {
		defaults = DefaultCapabilities()
	}
	base, baseAll, err := parseCapabilities("default capabilities", defaults)
	if err != nil {
		return nil, err
	}
	asked := in.Container.GetLinux().GetSecurityContext().GetCapabilities()
	add, addAll, err := parseCapabilities(field+".add_capabilities", asked.GetAddCapabilities())
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := parseCapabilities(field+".drop_capabilities", asked.GetDropCapabilities())
	if err != nil {
		return nil, err
	}
	ambient, ambientAll, err := parseCapabilities(field+".add_ambient_capabilities", asked.GetAddAmbientCapabilities())
	if err != nil {
		return nil, err
	}
	if ambientAll {
		ambient |= available
	}
	if addAll || baseAll {
		base |= available
	}
	if dropAll {
		base = 0
	}
	set := (base | add | ambient) &^ drop
	if lacking := (add | ambient) &^ drop &^ available; lacking != 0 {
		note("capabilities left out because the daemon does not have them: " + strings.Join(lacking.list(), ", "))
	}
	all := (set & available).list()
	amb := (ambient & set & available).list()
	return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: amb, Ambient: slices.Clone(amb)}, nil
}
