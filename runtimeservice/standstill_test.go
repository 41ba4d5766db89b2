package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// A container stands still as long as f runs, and goes on whatever f says; one that another
// has frozen stays so.
func TestStandstill(t *testing.T) {
	failed := func(err error) func(context.Context, string) error {
		return func(context.Context, string) error { return err }
	}
	refused := fmt.Errorf("no: %w", errdefs.ErrFailedPrecondition)
	for name, c := range map[string]struct {
		freeze, result, thaw, want error
		asked                      []string
	}{
		"f succeeds":            {asked: []string{"freeze", "f", "thaw"}},
		"f fails":               {result: errBoom, want: errBoom, asked: []string{"freeze", "f", "thaw"}},
		"it went on too early":  {thaw: refused, want: refused, asked: []string{"freeze", "f", "thaw"}},
		"it cannot be frozen":   {freeze: errBoom, want: errBoom, asked: []string{"freeze", "thaw"}},
		"another has frozen it": {freeze: refused, want: refused, asked: []string{"freeze"}},
	} {
		t.Run(name, func(t *testing.T) {
			n, s, id := running(t)
			n.on("freeze", failed(c.freeze))
			n.on("thaw", failed(c.thaw))
			err := s.Standstill(t.Context(), id, 0, func(context.Context) error {
				n.monitor.checkpoints = append(n.monitor.checkpoints, "f "+id)
				return c.result
			})
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			for i := range c.asked {
				c.asked[i] += " " + id
			}
			if !slices.Equal(n.monitor.checkpoints, c.asked) {
				t.Errorf("asked for %q, want %q", n.monitor.checkpoints, c.asked)
			}
		})
	}
}

func TestStandstillEnds(t *testing.T) {
	_, s, id := running(t)
	err := s.Standstill(t.Context(), id, time.Millisecond, func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// One that does not run is not frozen, and cannot be started meanwhile.
func TestStandstillOfOneThatDoesNotRun(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	id := mustCreate(t, s, mustRun(t, s, podConfig("web")), "app")
	err := s.Standstill(t.Context(), id, 0, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		return s.StartContainer(ctx, id)
	})
	if !errors.Is(err, context.DeadlineExceeded) || len(n.monitor.checkpoints) != 0 {
		t.Errorf("%v, %q", err, n.monitor.checkpoints)
	}
	if err := s.StartContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
}
