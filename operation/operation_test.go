package operation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func one(t *testing.T, r *Registry) Info {
	t.Helper()
	all := r.Running()
	if len(all) != 1 {
		t.Fatalf("%d operations run, want 1: %+v", len(all), all)
	}
	return all[0]
}

func TestStagesAndWaits(t *testing.T) {
	var r Registry
	ctx, op := r.Begin(t.Context(), "RunPodSandbox", Subject{Pod: "web"}, Options{})
	if info := one(t, &r); info.Method != "RunPodSandbox" || info.Subject.Pod != "web" || len(info.Steps) != 0 {
		t.Errorf("begun: %+v", info)
	}
	inNetwork, endNetwork := Stage(ctx, "network")
	inPlugin, endPlugin := Stage(inNetwork, "plugin bridge ADD")
	if s := one(t, &r).Steps; len(s) != 1 || s[0].Stage != "network" || s[0].WaitsFor != "plugin bridge ADD" {
		t.Errorf("in a stage within a stage: %+v", s)
	}
	n := 0
	done := Wait(inPlugin, func() string { n++; return fmt.Sprintf("look %d", n) })
	if s := one(t, &r).Steps; len(s) != 1 || s[0].WaitsFor != "look 1" {
		t.Errorf("while it waits: %+v", s)
	}
	if s := one(t, &r).Steps; s[0].WaitsFor != "look 2" {
		t.Errorf("what it waits for is not asked anew: %+v", s)
	}
	done()
	endPlugin(nil)
	if s := one(t, &r).Steps; len(s) != 1 || s[0].Stage != "network" || s[0].WaitsFor != "" {
		t.Errorf("after the inner stage: %+v", s)
	}
	endNetwork(nil)
	if s := one(t, &r).Steps; len(s) != 0 {
		t.Errorf("after all stages: %+v", s)
	}
	About(ctx, func(s *Subject) { s.SandboxID = "abc" })
	if s := op.Subject(); s != (Subject{Pod: "web", SandboxID: "abc"}) {
		t.Errorf("about %+v", s)
	}
	op.End(nil)
	if all := r.Running(); len(all) != 0 {
		t.Errorf("after the end there are %+v", all)
	}
}

func TestStagesSideBySide(t *testing.T) {
	var r Registry
	ctx, op := r.Begin(t.Context(), "StopPodSandbox", Subject{}, Options{})
	defer op.End(nil)
	_, endA := Stage(ctx, "a")
	_, endB := Stage(ctx, "b")
	if s := one(t, &r).Steps; len(s) != 2 || s[0].Stage != "a" || s[1].Stage != "b" {
		t.Errorf("both: %+v", s)
	}
	endA(nil)
	if s := one(t, &r).Steps; len(s) != 1 || s[0].Stage != "b" {
		t.Errorf("the later one: %+v", s)
	}
	endB(nil)
}

// Work that goes on without its caller stays listed, with the caller's answer.
func TestHold(t *testing.T) {
	var r Registry
	caller, cancel := context.WithCancel(t.Context())
	ctx, op := r.Begin(caller, "PullImage", Subject{}, Options{})
	release := Hold(ctx)
	work := Carry(context.Background(), ctx)
	cancel()
	op.End(context.Canceled)
	_, end := Stage(work, "layers")
	if info := one(t, &r); !info.Answered || !errors.Is(info.Outcome, context.Canceled) || info.Steps[0].Stage != "layers" {
		t.Errorf("after its caller's end: %+v", info)
	}
	if work.Err() != nil {
		t.Error("the work has ended with its caller")
	}
	end(nil)
	release()
	release() // a second time does nothing
	if all := r.Running(); len(all) != 0 {
		t.Errorf("after the work's end there are %+v", all)
	}
}

func TestCollect(t *testing.T) {
	for name, ctx := range map[string]context.Context{
		"without an operation": t.Context(),
		"with one":             begun(t),
	} {
		ctx, timings := Collect(ctx)
		timings.Add("queue", time.Now(), time.Second)
		in, end := Stage(ctx, "network")
		_, endInner := Stage(in, "plugin")
		endInner(nil)
		end(nil)
		_, end = Stage(ctx, "mount")
		end(errors.New("full"))
		var got []string
		for _, timing := range timings.All() {
			got = append(got, fmt.Sprint(timing.Stage, timing.Failed))
		}
		if want := []string{"queuefalse", "networkfalse", "mounttrue"}; !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func begun(t *testing.T) context.Context {
	var r Registry
	ctx, op := r.Begin(t.Context(), "x", Subject{}, Options{})
	t.Cleanup(func() { op.End(nil) })
	return ctx
}

func TestWithoutOperation(t *testing.T) {
	ctx := t.Context()
	in, end := Stage(ctx, "a")
	Wait(in, func() string { t.Error("asked"); return "" })()
	About(in, func(*Subject) { t.Error("asked") })
	Hold(in)()
	end(nil)
	var none *Registry
	same, op := none.Begin(ctx, "x", Subject{}, Options{})
	op.End(nil)
	if same != ctx || From(ctx) != nil || op.String() != "another call" || len(none.Running()) != 0 {
		t.Error("a nil registry does something")
	}
}

// fakeSpan writes down what it is told.
type fakeSpan struct {
	name string
	log  *[]string
}

func (s fakeSpan) Child(name string) Span {
	*s.log = append(*s.log, s.name+">"+name)
	return fakeSpan{name, s.log}
}
func (s fakeSpan) Set(key, value string) { *s.log = append(*s.log, s.name+":"+key+"="+value) }
func (s fakeSpan) End(err error)         { *s.log = append(*s.log, fmt.Sprintf("%s ends %v", s.name, err)) }

func TestSpans(t *testing.T) {
	var log []string
	r := Registry{Trace: func(_ context.Context, method string) Span { return fakeSpan{method, &log} }}
	ctx, op := r.Begin(t.Context(), "Run", Subject{Pod: "web"}, Options{})
	in, end := Stage(ctx, "network", "name", "bridge")
	_, endInner := Stage(in, "plugin")
	About(in, func(s *Subject) { s.SandboxID = "abc" })
	endInner(errors.New("no"))
	end(nil)
	op.End(nil)
	want := "Run:k8s.pod.name=web Run>network network:name=bridge network>plugin Run:berth.sandbox.id=abc plugin ends no network ends <nil> Run ends <nil>"
	if got := strings.Join(log, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A look at what runs, while it runs, is safe and waits for nothing.
func TestLookWhileRunning(t *testing.T) {
	var r Registry
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, op := r.Begin(t.Context(), "x", Subject{}, Options{})
				in, end := Stage(ctx, "a")
				done := Wait(in, op.String)
				About(in, func(s *Subject) { s.Pod = "p" })
				done()
				end(nil)
				op.End(nil)
			}
		})
	}
	for range 1000 {
		for _, info := range r.Running() {
			if info.Method != "x" {
				t.Fatalf("%+v", info)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// What a List pays for being listed itself.
func BenchmarkBegin(b *testing.B) {
	var r Registry
	b.ReportAllocs()
	for b.Loop() {
		_, op := r.Begin(b.Context(), "ListContainers", Subject{}, Options{})
		op.End(nil)
	}
}

func BenchmarkStage(b *testing.B) {
	var r Registry
	ctx, op := r.Begin(b.Context(), "x", Subject{}, Options{})
	defer op.End(nil)
	b.ReportAllocs()
	for b.Loop() {
		_, end := Stage(ctx, "a")
		end(nil)
	}
}

func BenchmarkStageOfNothing(b *testing.B) {
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_, end := Stage(ctx, "a")
		end(nil)
	}
}
