package runtimeservice

import (
	"context"
	"net/netip"
)

// SetPodCIDRs says which addresses the node's pods have: a prefix of a family,
// or one of each. It is idempotent; pods that are there keep theirs.
func (s *Service) SetPodCIDRs(ctx context.Context, prefixes []netip.Prefix) error {
	return s.opts.Network.SetPodCIDRs(ctx, prefixes)
}
