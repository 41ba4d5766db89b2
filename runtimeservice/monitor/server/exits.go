package server

import (
	"sync"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// exits wakes the one goroutine that tells the owner of exits.
type exits struct {
	mu   sync.Mutex
	wake chan struct{}
}

// changed says that there may be an exit to tell.
func (e *exits) changed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.wake != nil {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

// subscribe makes the channel that changed wakes, in place of an earlier one.
func (e *exits) subscribe() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wake = make(chan struct{}, 1)
	e.wake <- struct{}{}
	return e.wake
}

// tellExits sends every exit that has not been acknowledged, once each, until
// the connection ends.
func (s *Server) tellExits(conn *protocol.Conn, wake <-chan struct{}, gone <-chan struct{}) {
	told := map[*container]bool{}
	for {
		select {
		case <-gone:
			return
		case <-wake:
		}
		for c, exit := range s.untold(told) {
			if err := conn.SendJSON(protocol.Frame{Kind: protocol.FrameExit}, exit); err != nil {
				return
			}
			told[c] = true
		}
	}
}

// untold returns the exits to tell, and forgets of containers that are gone.
func (s *Server) untold(told map[*container]bool) map[*container]*protocol.Exit {
	for c := range told {
		if c.isDeleted() {
			delete(told, c)
		}
	}
	all := map[*container]*protocol.Exit{}
	for _, c := range s.list() {
		c.mu.Lock()
		if c.phase == exited && c.announced && !c.rec.Acked && !told[c] {
			all[c] = c.rec.Exit
		}
		c.mu.Unlock()
	}
	return all
}

// announce says that the client knows of the container, so that its exit comes
// after the answer to its start.
func (s *Server) announce(c *container) {
	c.mu.Lock()
	c.announced = true
	ended := c.phase == exited
	c.mu.Unlock()
	if ended {
		s.exits.changed()
	}
}

// ack takes note that the client knows of an exit.
func (s *Server) ack(id string) error {
	c := s.get(id)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != exited || c.rec.Acked {
		return nil
	}
	c.rec.Acked = true
	return c.save()
}
