package runtimeservice

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// earlyClients are those that attached to a container before its start. The start
// takes them along, so that they get everything from the first byte on. Guarded by
// the container's mu.
//
// Whoever removes a client from the list closes the pipe ends that it was to give
// to the container, and tells it the outcome; so a client that leaves while the
// start is under way disturbs nobody.
type earlyClients struct {
	waiting []*earlyClient
}

// earlyClient waits for a start.
type earlyClient struct {
	pipes *pipes
	// outcome is told once.
	outcome chan earlyOutcome
}

// earlyOutcome is the end of the session to come; nil says that the container is
// in another state now and is to be looked at again.
type earlyOutcome struct {
	ended <-chan struct{}
	err   error
}

// waitForStart waits until the start has connected the pipes. again says that the
// container is not what it was and nothing has been done.
func (c *container) waitForStart(ctx context.Context, p *pipes) (ended <-chan struct{}, again bool, err error) {
	client := &earlyClient{pipes: p, outcome: make(chan earlyOutcome, 1)}
	c.mu.Lock()
	if c.rec.Load().State != record.Created {
		c.mu.Unlock()
		return nil, true, nil
	}
	if len(c.early.waiting) == monitor.MaxAttach {
		c.mu.Unlock()
		return nil, false, fmt.Errorf("attach to container %s: %d clients wait for its start already: %w", c.id, monitor.MaxAttach, errdefs.ErrResourceExhausted)
	}
	c.early.waiting = append(c.early.waiting, client)
	c.mu.Unlock()
	defer operation.Wait(ctx, func() string { return "the container's start" })()
	select {
	case o := <-client.outcome:
		return o.ended, o.ended == nil && o.err == nil, o.err
	case <-ctx.Done():
		if c.dropEarly(client) {
			p.closeTheirs()
		}
		return nil, false, ctx.Err()
	}
}

// dropEarly is false if the client is somebody else's by now.
func (c *container) dropEarly(client *earlyClient) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.early.waiting, client)
	if i < 0 {
		return false
	}
	c.early.waiting = slices.Delete(c.early.waiting, i, i+1)
	return true
}

// takeEarly hands the waiting clients over to the start.
func (c *container) takeEarly() []*earlyClient {
	c.mu.Lock()
	defer c.mu.Unlock()
	clients := c.early.waiting
	c.early.waiting = nil
	return clients
}

// sendOnEarly has clients look again, because the container's state has changed;
// mu is held.
func (c *container) sendOnEarly() {
	for _, client := range c.early.waiting {
		client.outcome <- earlyOutcome{}
	}
	c.early.waiting = nil
}

func attachRequests(clients []*earlyClient) []monitor.AttachRequest {
	var reqs []monitor.AttachRequest
	for _, client := range clients {
		reqs = append(reqs, client.pipes.request(""))
	}
	return reqs
}

// tellStarted tells clients how the start that took them has ended.
func tellStarted(clients []*earlyClient, started monitor.Started, err error) {
	for i, client := range clients {
		client.pipes.closeTheirs()
		if err != nil {
			client.outcome <- earlyOutcome{err: err}
		} else {
			client.outcome <- earlyOutcome{ended: started.Ended[i]}
		}
	}
}
