package runtimeservice

import "github.com/berth-cri/berth/runtimeservice/record"

// A step towards removal is taken also when the disk did not take note of it:
// removing is what makes room on a full one. After a crash the record is that of
// before, and the client, who has had no answer, takes the step again.

// markContainer is update for such a step. An error of the disk is logged and no more.
func (s *Service) markContainer(c *container, change func(*record.Container)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.rec.Load()
	change(&next)
	if err := c.store.Put(c.id, &next); err != nil {
		s.log.Warn("note a step of a container's removal; it goes on without", "container", c.id, "error", err)
	}
	// Nobody writes the record again: it would come back after it was removed.
	c.unsaved = false
	c.show(&next)
}

// markSandbox is markContainer for a sandbox, and does nothing for one that was removed.
func (s *Service) markSandbox(sb *sandbox, change func(*record.Sandbox)) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if sb.removed {
		return
	}
	next := *sb.rec.Load()
	change(&next)
	if err := sb.store.Put(sb.id, &next); err != nil {
		s.log.Warn("note a step of a sandbox's removal; it goes on without", "sandbox", sb.id, "error", err)
	}
	sb.rec.Store(&next)
}
