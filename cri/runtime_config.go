package cri

import (
	"context"
	"net/netip"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (h *nodeHandlers) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: h.cgroupDriver},
	}, nil
}

// UpdateRuntimeConfig is how the kubelet tells which addresses the node's pods
// have: one CIDR, or one of each family with a comma between. Without any there
// is nothing to do.
func (h *nodeHandlers) UpdateRuntimeConfig(ctx context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	prefixes, err := podCIDRs("runtime_config.network_config.pod_cidr", r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
	if err != nil {
		return nil, err
	}
	if len(prefixes) > 0 {
		if err := h.node.SetPodCIDRs(ctx, prefixes); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}

// maxPodCIDRs is one of each family of addresses.
const maxPodCIDRs = 2

// podCIDRs parses the CIDRs of pods. Bits of a host are dropped.
func podCIDRs(path, v string) ([]netip.Prefix, error) {
	if v == "" {
		return nil, nil
	}
	var prefixes []netip.Prefix
	for text := range strings.SplitSeq(v, ",") {
		prefix, err := netip.ParsePrefix(text)
		if err != nil || prefix.Addr().Is4In6() {
			return nil, invalid(path, "%q is not a CIDR", shorten(text))
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	if len(prefixes) > maxPodCIDRs || len(prefixes) == maxPodCIDRs && prefixes[0].Addr().Is4() == prefixes[1].Addr().Is4() {
		return nil, invalid(path, "%q has more than one CIDR of a family", shorten(v))
	}
	return prefixes, nil
}
