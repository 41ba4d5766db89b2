package imageservice

import (
	"context"
	"time"
)

// reconcileInterval is how soon what nothing needs is gone, should its removal have
// failed when it was due.
const reconcileInterval = 10 * time.Second

// reconcileLoop compares what is on the disk with the records.
func (s *Service) reconcileLoop(ctx context.Context) {
	tick := time.NewTicker(reconcileInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.store.Reconcile(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("remove what nothing needs", "error", err)
		}
	}
}
