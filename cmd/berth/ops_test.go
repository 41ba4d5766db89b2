package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/operation"
)

// fakeOps answers with ops and remembers the last request.
type fakeOps struct {
	ops []berthapi.Operation

	mu    sync.Mutex
	asked []berthapi.ListOperationsRequest
}

func (f *fakeOps) ListOperations(_ context.Context, req berthapi.ListOperationsRequest) berthapi.ListOperationsResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, req)
	return berthapi.ListOperationsResponse{Operations: f.ops}
}

func (f *fakeOps) requests() []berthapi.ListOperationsRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]berthapi.ListOperationsRequest(nil), f.asked...)
}

func TestOps(t *testing.T) {
	fake := &fakeOps{ops: []berthapi.Operation{
		{ID: 7, Method: "RunPodSandbox", Subject: operation.Subject{Namespace: "shop", Pod: "web"}, Seconds: 12.34,
			Steps: []berthapi.Step{{Stage: "network", WaitsFor: "network plugin bridge ADD", Seconds: 12}}},
		{ID: 9, Method: "StopPodSandbox", Subject: operation.Subject{SandboxID: "0123456789abcdef0123"}, Seconds: 90, Answered: true,
			Steps: []berthapi.Step{{Stage: "kill", Seconds: 1}, {Stage: "unmount", Seconds: 2}}},
		{ID: 11, Method: "PullImage", Subject: operation.Subject{Image: "nginx:1"}, Seconds: 0.25},
	}}
	s := fakecri.Start(t, fakecri.Options{Operations: fake})
	table := wantOK(t, s, "ops")
	want(t, "ops", squeeze(table), `ID AGE OPERATION POD CONTAINER STAGE SINCE WAITS FOR
7 12.3s RunPodSandbox shop/web network 12s network plugin bridge ADD
9 1m30s StopPodSandbox (caller gone) 0123456789abc kill 1s
unmount 2s
11 250ms PullImage nginx:1 250ms
`)
	if got := fake.requests()[0]; got != (berthapi.ListOperationsRequest{MinSeconds: 1}) {
		t.Errorf("asked for %+v", got)
	}
	if data := wantOK(t, s, "ops", "--all", "-o", "json"); !strings.Contains(data, `"waitsFor": "network plugin bridge ADD"`) {
		t.Errorf("json: %s", data)
	}
	if got := fake.requests()[1]; got != (berthapi.ListOperationsRequest{All: true}) {
		t.Errorf("with --all asked for %+v", got)
	}
}

// squeeze makes runs of blanks one.
func squeeze(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}

func TestOpsWatch(t *testing.T) {
	fake := &fakeOps{}
	s := fakecri.Start(t, fakecri.Options{Operations: fake})
	inv := begin(t, s, nil, "ops", "--watch")
	for end := time.Now().Add(waitLimit); strings.Count(inv.out.String(), "WAITS FOR") < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it looks only once:\n%s", inv.out.String())
		}
	}
	inv.cancel()
	inv.wait()
}

func TestOpsOfAnotherRuntime(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{})
	wantFailure(t, s, 1, []string{"does not tell what it is doing", "berth version"}, "ops")
}

func TestInspectShowsTheStart(t *testing.T) {
	steps := startRecord(inspection{"info": map[string]any{"info": map[string]any{"start": []any{
		map[string]any{"stage": "network", "began": "2026-01-02T03:04:05Z", "milliseconds": 12.34},
		map[string]any{"stage": "pull", "image": "nginx:1", "began": "2026-01-02T03:04:06.5Z", "milliseconds": 900},
		map[string]any{"stage": "start", "container": "nginx", "began": "2026-01-02T03:05:05Z", "milliseconds": 3},
		map[string]any{"stage": "pull", "image": "x", "began": "2026-01-02T03:05:05Z", "milliseconds": 1, "error": "no", "attempts": 3},
		map[string]any{"stage": "mount", "container": "y", "began": "2026-01-02T03:05:05Z", "milliseconds": 1, "error": "oops"},
	}}}})
	var out strings.Builder
	if err := printStart(&out, steps); err != nil {
		t.Fatal(err)
	}
	want(t, "start", squeeze(out.String()), `
START OF AT TOOK
network +0.0 ms 12.3 ms
pull nginx:1 +1500.0 ms 900.0 ms
start nginx +1m0s 3.0 ms
pull x +1m0s 1.0 ms, failed 3 times, at last: no
mount y +1m0s 1.0 ms, failed: oops
`)
}
