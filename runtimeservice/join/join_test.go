package join

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestCallersShareOneRun(t *testing.T) {
	var (
		g     Group[string, int]
		runs  atomic.Int32
		begun = make(chan struct{})
		end   = make(chan struct{})
		wg    sync.WaitGroup
	)
	fn := func(context.Context) (int, error) {
		runs.Add(1)
		close(begun)
		<-end
		return 42, nil
	}
	for range 8 {
		wg.Go(func() {
			if v, err := g.Do(t.Context(), "k", fn); v != 42 || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
		})
	}
	<-begun
	for waiting(&g, "k") < 8 {
	}
	close(end)
	wg.Wait()
	if runs.Load() != 1 {
		t.Errorf("%d runs", runs.Load())
	}
	if v, _ := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 7, nil }); v != 7 {
		t.Errorf("a call after a delivered one got %d", v)
	}
}

func waiting(g *Group[string, int], key string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.calls[key]; c != nil {
		return c.waiters
	}
	return 0
}

func TestResultWaitsForTheNextCaller(t *testing.T) {
	var g Group[string, int]
	end, ended := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for waiting(&g, "k") == 0 {
		}
		cancel()
	}()
	_, err := g.Do(ctx, "k", func(ctx context.Context) (int, error) {
		defer close(ended)
		<-end
		if ctx.Err() != nil {
			t.Error("the run's context ended with its caller's")
		}
		return 1, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("first caller: %v", err)
	}
	close(end)
	<-ended
	never := func(context.Context) (int, error) { t.Error("ran again"); return 0, nil }
	if v, err := g.Do(t.Context(), "k", never); v != 1 || err != nil {
		t.Errorf("second caller got %d, %v", v, err)
	}
	if v, _ := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 2, nil }); v != 2 {
		t.Errorf("third caller got %d", v)
	}
}

func TestForgetAndKeep(t *testing.T) {
	var g Group[string, int]
	g.Keep("k", 5)
	never := func(context.Context) (int, error) { t.Error("ran"); return 0, nil }
	if v, err := g.Do(t.Context(), "k", never); v != 5 || err != nil {
		t.Errorf("kept result: %d, %v", v, err)
	}
	g.Keep("k", 5)
	g.Forget("k")
	if v, _ := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 6, nil }); v != 6 {
		t.Errorf("after Forget: %d", v)
	}
}

func TestFailureIsNotKept(t *testing.T) {
	var g Group[string, int]
	boom := errors.New("boom")
	if _, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 0, boom }); !errors.Is(err, boom) {
		t.Errorf("error is %v", err)
	}
	if v, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { return 3, nil }); v != 3 || err != nil {
		t.Errorf("after a failure: %d, %v", v, err)
	}
	_, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { panic("ouch") })
	if err == nil || !strings.Contains(err.Error(), "ouch") {
		t.Errorf("panic became %v", err)
	}
}
