package cni

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Capability arguments that plugins can ask for. The last two are conventions of other
// runtimes that plugins have come to rely on.
const (
	capPortMappings = "portMappings"
	capBandwidth    = "bandwidth"
	capDNS          = "dns"
	capCgroupPath   = "cgroupPath"
	capAnnotations  = "io.kubernetes.cri.pod-annotations"
)

const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
)

// The kubelet's own limits of a bandwidth, in bits per second.
var (
	minBandwidth = resource.MustParse("1k")
	maxBandwidth = resource.MustParse("1P")
)

// runtimeConf turns a pod into the arguments of an ADD. The error is ErrInvalidArgument.
func runtimeConf(pod Pod) (*libcni.RuntimeConf, error) {
	if invalid := utils.ValidateContainerID(pod.ID); invalid != nil {
		return nil, fmt.Errorf("pod ID %q: %w: %w", pod.ID, invalid, errdefs.ErrInvalidArgument)
	}
	if pod.NetNS == "" {
		return nil, fmt.Errorf("pod %q has no network namespace of its own: %w", pod.ID, errdefs.ErrInvalidArgument)
	}
	args := [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", pod.Namespace},
		{"K8S_POD_NAME", pod.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", pod.ID},
		{"K8S_POD_UID", pod.UID},
	}
	for _, arg := range args {
		// CNI_ARGS has no quoting: a semicolon begins the next argument.
		if strings.ContainsAny(arg[1], ";=\n\x00") {
			return nil, fmt.Errorf("%s %q cannot be passed to plugins: %w", arg[0], arg[1], errdefs.ErrInvalidArgument)
		}
	}
	capabilities, err := capabilityArgs(pod)
	if err != nil {
		return nil, err
	}
	return &libcni.RuntimeConf{
		ContainerID:    pod.ID,
		NetNS:          pod.NetNS,
		IfName:         InterfaceName,
		Args:           args,
		CapabilityArgs: capabilities,
	}, nil
}

// capabilityArgs are given to those plugins of the chain that declare the capability. One
// that the pod has no use for is absent.
func capabilityArgs(pod Pod) (map[string]any, error) {
	args := make(map[string]any)
	mappings, err := portMappings(pod.PortMappings)
	if err != nil {
		return nil, err
	}
	if len(mappings) > 0 {
		args[capPortMappings] = mappings
	}
	limit, err := bandwidth(pod.Annotations)
	if err != nil {
		return nil, err
	}
	if limit != nil {
		args[capBandwidth] = limit
	}
	if dns := pod.DNS; len(dns.Servers)+len(dns.Searches)+len(dns.Options) > 0 {
		args[capDNS] = dns
	}
	if pod.CgroupParent != "" {
		args[capCgroupPath] = pod.CgroupParent
	}
	if len(pod.Annotations) > 0 {
		args[capAnnotations] = pod.Annotations
	}
	return args, nil
}

// portMapping is an entry of the portMappings capability (CNI conventions).
type portMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func portMappings(mappings []PortMapping) ([]portMapping, error) {
	var entries []portMapping
	for _, m := range mappings {
		if m.HostPort == 0 {
			continue
		}
		entry := portMapping{HostPort: m.HostPort, ContainerPort: m.ContainerPort, Protocol: strings.ToLower(m.Protocol), HostIP: m.HostIP}
		if entry.Protocol == "" {
			entry.Protocol = "tcp"
		}
		if reason := entry.invalid(); reason != "" {
			return nil, fmt.Errorf("host port %d of container port %d: %s: %w", m.HostPort, m.ContainerPort, reason, errdefs.ErrInvalidArgument)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func (m portMapping) invalid() string {
	switch {
	case m.HostPort < 0 || m.HostPort > math.MaxUint16, m.ContainerPort <= 0 || m.ContainerPort > math.MaxUint16:
		return "a port is from 1 to 65535"
	case m.Protocol != "tcp" && m.Protocol != "udp" && m.Protocol != "sctp":
		return fmt.Sprintf("protocol %q is not tcp, udp or sctp", m.Protocol)
	case m.HostIP != "":
		if _, err := netip.ParseAddr(m.HostIP); err != nil {
			return fmt.Sprintf("host IP %q is not an address", m.HostIP)
		}
	}
	return ""
}

// bandwidthLimit is the bandwidth capability (CNI conventions): rates in bits per second,
// bursts in bits. A rate of 0 is no limit.
type bandwidthLimit struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// bandwidth reads the annotations that limit a pod; nil is no limit.
func bandwidth(annotations map[string]string) (*bandwidthLimit, error) {
	ingress, err := bitRate(annotations, ingressAnnotation)
	if err != nil {
		return nil, err
	}
	egress, err := bitRate(annotations, egressAnnotation)
	if err != nil {
		return nil, err
	}
	if ingress == 0 && egress == 0 {
		return nil, nil
	}
	// A plugin demands a burst with each rate; the pod has no say in it, so the largest.
	limit := &bandwidthLimit{IngressRate: ingress, EgressRate: egress}
	if ingress > 0 {
		limit.IngressBurst = math.MaxInt32
	}
	if egress > 0 {
		limit.EgressBurst = math.MaxInt32
	}
	return limit, nil
}

func bitRate(annotations map[string]string, name string) (uint64, error) {
	text, ok := annotations[name]
	if !ok {
		return 0, nil
	}
	rate, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fmt.Errorf("annotation %s: %q: %w: %w", name, text, err, errdefs.ErrInvalidArgument)
	}
	if rate.Cmp(minBandwidth) < 0 || rate.Cmp(maxBandwidth) > 0 {
		return 0, fmt.Errorf("annotation %s: %q is not from %s to %s: %w", name, text, minBandwidth.String(), maxBandwidth.String(), errdefs.ErrInvalidArgument)
	}
	return uint64(rate.Value()), nil
}
