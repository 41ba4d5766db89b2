package monitor

import (
	"context"
	"sync"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// exitQueue holds exits between the connection and OnExit, which may be slow.
type exitQueue struct {
	started bool // guarded by the client's mu

	mu    sync.Mutex
	queue []protocol.Exit
	wake  chan struct{}
	// told has the exits that OnExit has got. A monitor that was replaced may
	// tell one again that it did not see acknowledged.
	told map[string]time.Time
}

// first reports whether an exit has not been told, and counts it as told.
func (q *exitQueue) first(e protocol.Exit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at, known := q.told[e.ID]; known && at.Equal(e.ExitedAt) {
		return false
	}
	q.told[e.ID] = e.ExitedAt
	return true
}

// forget is called when a container is deleted.
func (q *exitQueue) forget(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.told, id)
}

func (q *exitQueue) push(e protocol.Exit) {
	q.mu.Lock()
	q.queue = append(q.queue, e)
	q.mu.Unlock()
	q.kick()
}

func (q *exitQueue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *exitQueue) take() []protocol.Exit {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.queue
	q.queue = nil
	return all
}

// dispatchExits calls OnExit until the client is closed.
func (c *Client) dispatchExits() {
	for range c.exits.wake {
		for _, e := range c.exits.take() {
			c.dispatchExit(e)
		}
		c.mu.Lock()
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return
		}
	}
}

// ackTime bounds the acknowledgement of an exit. If it fails the exit is told
// again on the next connection, and is known by then.
const ackTime = 10 * time.Second

func (c *Client) dispatchExit(e protocol.Exit) {
	if c.exits.first(e) && c.options.OnExit != nil {
		c.options.OnExit(exitOf(e))
	}
	ctx, cancel := context.WithTimeout(context.Background(), ackTime)
	defer cancel()
	if err := c.doJSON(ctx, protocol.MethodAck, protocol.Named{ID: e.ID}, nil); err != nil {
		c.log.Warn("acknowledge exit of container", "container", e.ID, "error", err)
		return
	}
	c.forget(e.ID)
}

func exitOf(e protocol.Exit) Exit {
	return Exit{
		ID: e.ID, Code: e.Code, ExitedAt: e.ExitedAt,
		OOMKilled: e.OOMKilled, Unknown: e.Unknown, Reason: e.Reason,
	}
}
