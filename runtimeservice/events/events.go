// Package events hands what happens to containers to everyone who listens.
package events

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// queueLength is how many events a listener may be behind. A kubelet that is
// more than that behind has stalled; it connects again and lists.
const queueLength = 1024

// Hub is a fan-out of events. The zero value is ready. Publish never waits: a
// listener who is too slow is told so and ended, and never skips an event
// silently.
type Hub struct {
	mu        sync.Mutex
	listeners map[*listener]struct{}
}

type listener struct {
	queue chan *runtimeapi.ContainerEventResponse
	slow  chan struct{} // closed when an event did not fit
}

// Publish gives the event to every listener there is. The event is shared and
// must not be changed any more.
func (h *Hub) Publish(event *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for l := range h.listeners {
		select {
		case l.queue <- event:
		default:
			close(l.slow)
			delete(h.listeners, l)
		}
	}
}

// Listening tells whether anyone would get an event published now.
func (h *Hub) Listening() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.listeners) > 0
}

// Stream calls listening once the listener is known, and then send with every
// event published since, in order, until ctx ends (the error is nil), listening
// or send fails (its error), or send took so long that the queue overflowed
// (ErrResourceExhausted, after what was queued was sent).
func (h *Hub) Stream(ctx context.Context, listening func() error, send func(*runtimeapi.ContainerEventResponse) error) error {
	l := &listener{
		queue: make(chan *runtimeapi.ContainerEventResponse, queueLength),
		slow:  make(chan struct{}),
	}
	h.mu.Lock()
	if h.listeners == nil {
		h.listeners = make(map[*listener]struct{})
	}
	h.listeners[l] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.listeners, l)
	}()
	if err := listening(); err != nil {
		return err
	}
	return l.forward(ctx, send)
}

func (l *listener) forward(ctx context.Context, send func(*runtimeapi.ContainerEventResponse) error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-l.queue:
			if err := send(event); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case <-ctx.Done():
			return nil
		case event := <-l.queue:
			if err := send(event); err != nil {
				return err
			}
		case <-l.slow:
			if len(l.queue) > 0 {
				continue
			}
			return fmt.Errorf("client is more than %d events behind; connect again and list: %w", queueLength, errdefs.ErrResourceExhausted)
		}
	}
}
