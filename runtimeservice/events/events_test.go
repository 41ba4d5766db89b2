package events

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func event(n int) *runtimeapi.ContainerEventResponse {
	return &runtimeapi.ContainerEventResponse{ContainerId: fmt.Sprint(n)}
}

// listen starts a Stream and returns when it is listening.
func listen(t *testing.T, h *Hub, ctx context.Context, send func(*runtimeapi.ContainerEventResponse) error) <-chan error {
	t.Helper()
	ended, listening := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- h.Stream(ctx, func() error { close(listening); return nil }, send)
	}()
	<-listening
	return ended
}

// What happens while the client is told that it listens reaches it.
func TestNothingIsMissedSinceListening(t *testing.T) {
	var h Hub
	boom := errors.New("boom")
	err := h.Stream(t.Context(), func() error { h.Publish(event(7)); return nil }, func(e *runtimeapi.ContainerEventResponse) error {
		if e.ContainerId != "7" {
			t.Errorf("got %v", e)
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("stream ended with %v", err)
	}
	err = h.Stream(t.Context(), func() error { return boom }, func(*runtimeapi.ContainerEventResponse) error {
		t.Error("an event was sent to one who could not be told")
		return nil
	})
	if !errors.Is(err, boom) || h.Listening() {
		t.Errorf("stream ended with %v, listening %v", err, h.Listening())
	}
}

func TestEveryListenerGetsAllInOrder(t *testing.T) {
	var h Hub
	const events = 200
	ctx, cancel := context.WithCancel(t.Context())
	var ends []<-chan error
	full := make(chan struct{}, 3)
	for i := range 3 {
		next := 0
		ends = append(ends, listen(t, &h, ctx, func(e *runtimeapi.ContainerEventResponse) error {
			if e.ContainerId != fmt.Sprint(next) {
				t.Errorf("listener %d got %s, want %d", i, e.ContainerId, next)
			}
			if next++; next == events {
				full <- struct{}{}
			}
			return nil
		}))
	}
	for n := range events {
		h.Publish(event(n))
	}
	for range 3 {
		<-full
	}
	cancel()
	for _, end := range ends {
		if err := <-end; err != nil {
			t.Errorf("stream ended with %v", err)
		}
	}
	if h.Listening() {
		t.Error("a listener is left")
	}
}

func TestSlowListenerIsEndedAfterWhatFitted(t *testing.T) {
	var h Hub
	got := 0
	gate := make(chan struct{})
	end := listen(t, &h, t.Context(), func(*runtimeapi.ContainerEventResponse) error {
		<-gate
		got++
		return nil
	})
	for n := range 2*queueLength + 2 {
		h.Publish(event(n))
	}
	if h.Listening() {
		t.Error("still listening")
	}
	close(gate)
	if err := <-end; !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("stream ended with %v", err)
	}
	if got < queueLength || got > queueLength+1 {
		t.Errorf("%d events sent", got)
	}
}

func TestSendErrorEndsTheStream(t *testing.T) {
	var h Hub
	boom := errors.New("boom")
	end := listen(t, &h, t.Context(), func(*runtimeapi.ContainerEventResponse) error { return boom })
	h.Publish(event(1))
	if err := <-end; !errors.Is(err, boom) {
		t.Errorf("stream ended with %v", err)
	}
}
