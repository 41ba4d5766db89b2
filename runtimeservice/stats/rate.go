package stats

import "time"

// minWindow is the shortest time that a rate is computed over: a shorter one
// says more about the scheduler than about the container.
const minWindow = 500 * time.Millisecond

// Rate turns readings of CPU time into a rate. The zero value knows none yet.
type Rate struct {
	at        time.Time
	used      time.Duration
	nanoCores uint64
	known     bool
}

// StartAt makes the time at which nothing had been used the first reading.
func (r *Rate) StartAt(at time.Time) {
	if r.at.IsZero() {
		r.at = at
	}
}

// Update takes a reading and returns the cores used, in billionths, averaged
// since the one before. It is not known with the first reading.
func (r *Rate) Update(at time.Time, used time.Duration) (nanoCores uint64, known bool) {
	window := at.Sub(r.at)
	switch {
	case r.at.IsZero() || used < r.used:
		*r = Rate{at: at, used: used}
	case window >= minWindow:
		nanoCores := float64(used-r.used) / window.Seconds()
		*r = Rate{at: at, used: used, nanoCores: uint64(nanoCores), known: true}
	}
	return r.nanoCores, r.known
}
