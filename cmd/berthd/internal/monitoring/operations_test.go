package monitoring

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-cri/berth/operation"
)

func TestOperationsAsText(t *testing.T) {
	var operations operation.Registry
	ctx, op := operations.Begin(t.Context(), "StopContainer", operation.Subject{Namespace: "shop", Pod: "web", Container: "nginx"}, operation.Options{})
	defer op.End(nil)
	in, end := operation.Stage(ctx, "kill")
	defer end(nil)
	defer operation.Wait(in, func() string { return "the end of the process" })()

	s := httptest.NewServer(handler(Options{
		Metrics: prometheus.NewRegistry(), Health: &Health{}, Operations: &operations, Logger: slog.New(slog.DiscardHandler),
	}))
	defer s.Close()
	resp, err := http.Get(s.URL + "/debug/ops")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Join(strings.Fields(string(body)), " ")
	for _, want := range []string{"ID AGE METHOD", " StopContainer shop/web nginx kill ", " the end of the process"} {
		if !strings.Contains(fields, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}

func TestOperationsMetrics(t *testing.T) {
	now := time.Now()
	var b strings.Builder
	writeOperations(&b, []operation.Info{{ID: 3, Method: "PullImage", Began: now.Add(-90 * time.Second)}}, now)
	if got := strings.Join(strings.Fields(b.String()), " "); !strings.Contains(got, "3 1m30s PullImage 1m30s") {
		t.Errorf("table:\n%s", b.String())
	}
	r := prometheus.NewRegistry()
	var operations operation.Registry
	r.MustRegister(CollectOperations(&operations))
	_, op := operations.Begin(t.Context(), "PullImage", operation.Subject{}, operation.Options{})
	defer op.End(nil)
	// A young one is not counted.
	if families, err := r.Gather(); err != nil || len(families) != 0 {
		t.Errorf("families %v, %v", families, err)
	}
	stages := NewStartStages(r)
	stages.Observe("network", 20*time.Millisecond)
	families, err := r.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("families %v, %v", families, err)
	}
	m := families[0].GetMetric()[0]
	if families[0].GetName() != "berth_pod_start_stage_duration_seconds" || m.GetLabel()[0].GetValue() != "network" || m.GetHistogram().GetSampleCount() != 1 {
		t.Errorf("histogram %v", families[0])
	}
}
