package monitor

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// Update changes limits of a running container; what is not set in r stays. The
// error wraps errdefs.ErrNotFound when it does not run.
func (c *Client) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	return c.doJSON(ctx, protocol.MethodUpdate, protocol.Update{ID: id, Resources: r}, nil)
}
