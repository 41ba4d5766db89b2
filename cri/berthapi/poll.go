package berthapi

import (
	"context"
	"time"
)

// Progress changes with every block that arrives; a person sees no more than
// some snapshots a second.
const pollInterval = 100 * time.Millisecond

// Poller serves the progress of pulls that can only be asked for.
type Poller struct {
	// Pulls returns a snapshot of each pull that runs.
	Pulls func() []Snapshot
	// Same tells whether the name a client asks for means the Ref of a
	// snapshot, which may be written out in full.
	Same func(asked, running string) bool
}

var _ ImagesServer = (*Poller)(nil)

// PullProgress implements ImagesServer.
func (p *Poller) PullProgress(ctx context.Context, ref string, send func(Snapshot) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for seen := false; ; {
		running := false
		for _, s := range p.Pulls() {
			if ref != "" && !p.Same(ref, s.Ref) {
				continue
			}
			running = true
			if err := send(s); err != nil {
				return err
			}
		}
		if seen && !running && ref != "" {
			return nil
		}
		seen = seen || running
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
