// Package idmap translates owners of files between a user namespace and the node.
package idmap

// Overflow is who owns, inside, what belongs to an ID that is not mapped: the kernel's
// default.
const Overflow = 65534

// Range maps Length IDs from Container, inside, to Host and those after it.
type Range struct {
	Container, Host, Length uint32
}

// Ranges map IDs of one kind; none at all stand for the node's own user namespace.
type Ranges []Range

// Inside returns what an ID of the node is in the namespace, Overflow if nothing.
func (r Ranges) Inside(host uint32) uint32 {
	if len(r) == 0 {
		return host
	}
	for _, m := range r {
		if host >= m.Host && host-m.Host < m.Length {
			return m.Container + (host - m.Host)
		}
	}
	return Overflow
}

// Outside returns what an ID of the namespace is on the node; false if nothing.
func (r Ranges) Outside(container uint32) (uint32, bool) {
	if len(r) == 0 {
		return container, true
	}
	for _, m := range r {
		if container >= m.Container && container-m.Container < m.Length {
			return m.Host + (container - m.Container), true
		}
	}
	return 0, false
}

// Map is the mapping of a user namespace. The zero value is that of the node's own.
type Map struct {
	UIDs, GIDs Ranges
}
