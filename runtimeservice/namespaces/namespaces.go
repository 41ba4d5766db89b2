// Package namespaces makes the namespaces of a pod without a process in them.
package namespaces

// Kind is a kind of namespace, named as under /proc/self/ns; a pin of it has that file name.
type Kind string

// The kinds a sandbox can pin.
const (
	Network Kind = "net"
	IPC     Kind = "ipc"
	UTS     Kind = "uts"
	PID     Kind = "pid"
	User    Kind = "user"
)

// Request says which namespaces a sandbox gets and how they begin.
type Request struct {
	// Dir is the directory of the pins; it is made if missing.
	Dir string
	// Network, IPC and UTS say which namespaces are made.
	Network, IPC, UTS bool
	// Hostname is set in the UTS namespace; empty leaves the node's.
	Hostname string
	// Sysctls are set in the network and IPC namespaces.
	Sysctls map[string]string
}

// Pins are the paths of pinned namespaces.
type Pins map[Kind]string
