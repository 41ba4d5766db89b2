package nri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
)

// updateTimeout bounds one update of a container, while which no Turn begins if it
// is a plugin's answer to being synchronised.
const updateTimeout = 10 * time.Second

// synchronize tells a plugin that has connected what there is. The library lets no
// Turn begin meanwhile.
func (p *Plugins) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	pods, containers, err := p.runtime.State(ctx)
	if err != nil {
		return fmt.Errorf("list pods and containers: %w", err)
	}
	updates, err := tell(ctx, pods, containers)
	if err != nil {
		return err
	}
	for _, failed := range p.apply(ctx, updates) {
		p.log.Warn("NRI plugin's update of a container at its synchronisation was not made", "container", failed.GetContainerId())
	}
	return nil
}

// update is what a plugin asks for by itself. It returns the updates that failed.
func (p *Plugins) update(ctx context.Context, updates []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	return p.apply(ctx, updates), nil
}

// apply makes each update and returns those that failed and may not.
func (p *Plugins) apply(ctx context.Context, updates []*api.ContainerUpdate) []*api.ContainerUpdate {
	var failed []*api.ContainerUpdate
	for _, u := range updates {
		ctx, cancel := context.WithTimeout(ctx, updateTimeout)
		err := p.runtime.Update(ctx, u)
		cancel()
		if err == nil {
			continue
		}
		p.log.Warn("update a container for an NRI plugin", "container", u.GetContainerId(), "ignored", u.GetIgnoreFailure(), "error", err)
		if !u.GetIgnoreFailure() {
			failed = append(failed, u)
		}
	}
	return failed
}
