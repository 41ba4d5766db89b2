package monitor

import (
	"context"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// Freeze has containers stand still, all or none, until Thaw is called with the same
// ones. They go on by themselves when longest is over, when this client loses its
// connection and when the monitor dies: nothing stays frozen because somebody is gone.
// Containers that are frozen already, or do not run, are ErrFailedPrecondition.
func (c *Client) Freeze(ctx context.Context, ids []string, longest time.Duration) error {
	return c.doJSON(ctx, protocol.MethodFreeze, protocol.Freeze{IDs: ids, Longest: longest}, nil)
}

// FreezeToDump is Freeze for those that Dump is called with then. A machine on which CRIU
// cannot be used is ErrFailedPrecondition, and then nothing was frozen.
func (c *Client) FreezeToDump(ctx context.Context, ids []string, longest time.Duration) error {
	return c.doJSON(ctx, protocol.MethodFreeze, protocol.Freeze{IDs: ids, Longest: longest, Dump: true}, nil)
}

// Dump writes the images of a container that FreezeToDump has frozen into an existing
// directory. It returns when nothing is written any more, also when the time that Freeze
// got is over. What CRIU cannot dump is ErrFailedPrecondition.
func (c *Client) Dump(ctx context.Context, id, images string, options CRIUOptions) error {
	return c.doJSON(ctx, protocol.MethodDump, protocol.Dump{ID: id, Images: images, CRIUOptions: options}, nil)
}

// Thaw lets containers go on. It waits for dumps of them, which end soon. Those that go on
// already are no obstacle, but ErrFailedPrecondition: they did not stand still until now, so
// what was read of them is not of one instant. All others go on whatever the error is.
func (c *Client) Thaw(ctx context.Context, ids []string) error {
	return c.doJSON(ctx, protocol.MethodThaw, protocol.Frozen{IDs: ids}, nil)
}
