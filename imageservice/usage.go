package imageservice

import (
	"context"
	"math"
	"time"

	"github.com/berth-cri/berth/imageservice/store"
)

// usageShare bounds what all measurements together take: one part in so many of one core.
const usageShare = 20

// usageLoop measures the writable layers that are due, one after the other.
func (s *Service) usageLoop(ctx context.Context) {
	tick := time.NewTicker(s.opts.UsageInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, id := range dueForMeasurement(s.usages(), time.Now()) {
			if err := s.store.MeasureRootfs(ctx, id); err != nil && ctx.Err() == nil {
				s.log.Debug("measure a writable layer", "container", id, "error", err)
			}
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// usages are the last measurements, by container.
func (s *Service) usages() map[string]store.RootfsUsage {
	last := map[string]store.RootfsUsage{}
	for _, id := range s.store.RootfsIDs() {
		if u, err := s.store.RootfsUsage(id); err == nil {
			last[id] = u
		}
	}
	return last
}

// dueForMeasurement says which containers to measure now. The rest between two measurements
// grows with the square root of what one takes: of all ways to keep to the share, this has
// the figures least old on average, and a container with a million files does not take the
// others' turns.
func dueForMeasurement(last map[string]store.RootfsUsage, now time.Time) (due []string) {
	roots := 0.0
	for _, u := range last {
		roots += math.Sqrt(u.Took.Seconds())
	}
	for id, u := range last {
		rest := usageShare * roots * math.Sqrt(u.Took.Seconds())
		if now.Sub(u.At).Seconds() >= rest {
			due = append(due, id)
		}
	}
	return due
}
