package runtimeservice

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// early attaches n clients to a created container and waits until they wait.
func early(t *testing.T, s *Service, ctx context.Context, id string, clients int) (outputs []*writeCloser, ended chan error) {
	t.Helper()
	ended = make(chan error, clients)
	c, err := s.containers.find(id)
	if err != nil {
		t.Fatal(err)
	}
	for range clients {
		out := &writeCloser{}
		outputs = append(outputs, out)
		go func() { ended <- s.Attach(ctx, id, strings.NewReader("typed"), out, nil, false, nil) }()
	}
	eventually(t, "clients wait", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.early.waiting) == clients
	})
	return outputs, ended
}

func TestAttachBeforeTheStart(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustCreate(t, s, mustRun(t, s, podConfig("web")), "app")
	n.monitor.attach = func(req monitor.AttachRequest) (<-chan struct{}, error) {
		in, out := dup(t, req.Stdin), dup(t, req.Stdout)
		ended := make(chan struct{})
		go func() {
			_, _ = io.WriteString(out, "first byte, ")
			_, _ = io.Copy(out, in)
			closeAll(in, out)
			close(ended)
		}()
		return ended, nil
	}
	leaving, leave := context.WithCancel(t.Context())
	_, left := early(t, s, leaving, id, 1)
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that left: %v", err)
	}
	outputs, ended := early(t, s, t.Context(), id, 2)
	if err := s.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for range outputs {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for _, out := range outputs {
		if got := out.String(); got != "first byte, typed" {
			t.Errorf("output %q", got)
		}
	}
}

func TestAttachToWhatNeverStarts(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	pod := mustRun(t, s, podConfig("web"))
	broken := errors.New("it is broken")
	n.on("start", func(context.Context, string) error { return broken })
	id := mustCreate(t, s, pod, "fails")
	_, ended := early(t, s, t.Context(), id, 1)
	if err := s.StartContainer(t.Context(), id); !errors.Is(err, broken) {
		t.Errorf("start: %v", err)
	}
	if err := <-ended; !errors.Is(err, broken) {
		t.Errorf("client of a container that fails to start: %v", err)
	}
	n.off("start")

	id = mustCreate(t, s, pod, "removed")
	_, ended = early(t, s, t.Context(), id, 1)
	if err := s.RemoveContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errdefs.IsFailedPrecondition(err) {
		t.Errorf("client of a container that is removed: %v", err)
	}

	id = mustCreate(t, s, pod, "popular")
	ctx, leave := context.WithCancel(t.Context())
	_, ended = early(t, s, ctx, id, monitor.MaxAttach)
	if err := s.Attach(t.Context(), id, nil, &writeCloser{}, nil, false, nil); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one client too many: %v", err)
	}
	leave()
	for range monitor.MaxAttach {
		<-ended
	}
}

// Clients that leave at any moment of a start disturb nobody.
func TestClientsLeaveDuringTheStart(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustCreate(t, s, mustRun(t, s, podConfig("web")), "app")
	n.monitor.attach = func(req monitor.AttachRequest) (<-chan struct{}, error) {
		if _, err := req.Stdout.Stat(); err != nil {
			t.Errorf("the start got a closed pipe: %v", err)
		}
		return make(chan struct{}), nil
	}
	ctx, leave := context.WithCancel(t.Context())
	n.on("start", func(context.Context, string) error { leave(); return nil })
	_, ended := early(t, s, ctx, id, 3)
	if err := s.StartContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left: %v", err)
		}
	}
}
