package runtimeservice

import (
	"context"
	"fmt"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

func TestEventsTellTheLifeOfAPod(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan *runtimeapi.ContainerEventResponse, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- s.StreamEvents(ctx, func() error { return nil }, func(e *runtimeapi.ContainerEventResponse) error { got <- e; return nil })
	}()
	eventually(t, "it listens", s.events.Listening)

	pod := mustRun(t, s, podConfig("web"))
	app := mustStart(t, s, pod, "app")
	n.monitor.exit(app, monitor.Exit{Code: 1})
	quick := mustCreate(t, s, pod, "quick")
	n.on("started", func(_ context.Context, id string) error {
		n.monitor.exit(id, monitor.Exit{})
		return nil
	})
	if err := s.StartContainer(t.Context(), quick); err != nil {
		t.Fatal(err)
	}
	n.off("started")
	if err := s.RemoveContainer(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if err := s.RemovePodSandbox(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	const (
		created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
		started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
		stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
		deleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
	)
	for i, want := range []struct {
		id    string
		kind  runtimeapi.ContainerEventType
		state string // of the pod and of its containers in the snapshot
	}{
		{pod, created, "SANDBOX_READY"},
		{pod, started, "SANDBOX_READY"},
		{app, created, "SANDBOX_READY app:CONTAINER_CREATED"},
		{app, started, "SANDBOX_READY app:CONTAINER_RUNNING"},
		{app, stopped, "SANDBOX_READY app:CONTAINER_EXITED"},
		{quick, created, "SANDBOX_READY app:CONTAINER_EXITED quick:CONTAINER_CREATED"},
		{quick, started, "SANDBOX_READY app:CONTAINER_EXITED quick:CONTAINER_EXITED"},
		{quick, stopped, "SANDBOX_READY app:CONTAINER_EXITED quick:CONTAINER_EXITED"},
		{app, deleted, "SANDBOX_READY quick:CONTAINER_EXITED"},
		{pod, stopped, "SANDBOX_NOTREADY quick:CONTAINER_EXITED"},
		{quick, deleted, "SANDBOX_NOTREADY"},
		{pod, deleted, "SANDBOX_NOTREADY"},
	} {
		e := <-got
		state := e.GetPodSandboxStatus().GetState().String()
		for _, c := range e.GetContainersStatuses() {
			state += fmt.Sprintf(" %s:%s", c.GetMetadata().GetName(), c.GetState())
		}
		if e.GetContainerId() != want.id || e.GetContainerEventType() != want.kind || state != want.state || e.GetCreatedAt() <= 0 {
			t.Errorf("event %d: %s of %.6s with %s, want %s of %.6s with %s", i,
				e.GetContainerEventType(), e.GetContainerId(), state, want.kind, want.id, want.state)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stream ended with %v", err)
	}
	if len(got) != 0 {
		t.Errorf("%d more events", len(got))
	}
}
