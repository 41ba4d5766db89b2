package cri

import (
	"context"
)

// sessionLimit counts the open sessions.
type sessionLimit struct{ places chan struct{} }

func newSessionLimit(n int) *sessionLimit { return &sessionLimit{make(chan struct{}, n)} }

// acquire takes a place, or returns false when there is none.
func (l *sessionLimit) acquire() bool {
	select {
	case l.places <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l *sessionLimit) release() { <-l.places }

func (l *sessionLimit) inUse() int { return len(l.places) }

// drain waits until no session is open, or ctx ends. No new one begins after.
func (l *sessionLimit) drain(ctx context.Context) {
	for range cap(l.places) {
		select {
		case l.places <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}
