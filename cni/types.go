package cni

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/berth-cri/berth/operation"
)

// DefaultTimeout bounds one ADD or DEL of a whole chain of plugins.
const DefaultTimeout = 45 * time.Second

// InterfaceName is the pod's interface on its network.
const InterfaceName = "eth0"

// Options says where a Networks finds its input and keeps its records.
type Options struct {
	// ConfDirs are searched in this order for *.conflist, *.conf and *.json files. The
	// lexicographically first file of the first directory that has any is the network.
	ConfDirs []string
	// Template is a file that SetPodCIDRs makes a configuration of, in the first
	// of ConfDirs. May be empty.
	Template string
	// BinDirs are searched in this order for plugins.
	BinDirs []string
	// StateDir holds the debts and the CNI cache; it must survive a reboot, because IPAM
	// plugins keep their allocations over one.
	StateDir string
	// RegistryDir is shared by every Networks of the host: garbage collection must know the
	// attachments of all of them. DefaultRegistryDir if empty.
	RegistryDir string
	// PeerCacheDir is where other runtimes of the host cache their attachments.
	// DefaultPeerCacheDir if empty.
	PeerCacheDir string
	// Timeout bounds one ADD, and one DEL, of the whole chain. DefaultTimeout if zero.
	Timeout time.Duration
	// Operations lists the releases in the background; may be nil.
	Operations *operation.Registry
	// Logger is where failures without a caller go; nothing is logged if nil.
	Logger *slog.Logger
}

// Pod is what a network needs to know of a sandbox.
type Pod struct {
	ID, Name, Namespace, UID string
	// NetNS is the path of the pinned network namespace.
	NetNS        string
	PortMappings []PortMapping
	// Annotations are the pod's; the bandwidth ones and, for plugins that ask for them, all.
	Annotations map[string]string
	// CgroupParent is for plugins with the cgroupPath capability.
	CgroupParent string
	// DNS is for plugins with the dns capability.
	DNS DNS
	// ConfDirs are searched for the pod's network as Options.ConfDirs are, in place of
	// them. They are read at Attach and not watched.
	ConfDirs []string
}

// PortMapping forwards a port of the host to the pod. One with a HostPort of 0 is none.
type PortMapping struct {
	// Protocol is tcp, udp or sctp, in any case; empty is tcp.
	Protocol                string
	HostIP                  string
	HostPort, ContainerPort int32
}

// DNS is the pod's resolver configuration.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// Attachment is what the network gave to a pod.
type Attachment struct {
	// Network is the name of the network.
	Network string
	// IPs are the addresses of InterfaceName, the pod's primary one first.
	IPs []netip.Addr
	// Result is the CNI result, as JSON in the version of the network's configuration.
	Result []byte
}

// Status says whether pods can be attached.
type Status struct {
	Ready bool
	// Reason is one of the Reason constants; empty when Ready.
	Reason string
	// Message tells a person what is wrong and where. It may be set when Ready: then the
	// network works, but a newer configuration of it could not be loaded.
	Message string
}

// Reasons of a Status that is not ready.
const (
	ReasonNoConfig       = "NoNetworkConfig"
	ReasonInvalidConfig  = "InvalidNetworkConfig"
	ReasonPluginMissing  = "NetworkPluginMissing"
	ReasonPluginNotReady = "NetworkPluginNotReady"
)
