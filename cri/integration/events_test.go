package integration

import (
	"context"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestEvents(t *testing.T) {
	checkLeaks(t, shared)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := shared.Runtime().GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	go func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			events <- e
		}
	}()
	next := func(id string, kind runtimeapi.ContainerEventType) *runtimeapi.ContainerEventResponse {
		t.Helper()
		select {
		case e := <-events:
			if e.ContainerId != id || e.ContainerEventType != kind || e.CreatedAt <= 0 {
				t.Errorf("event is %v of %s, want %v of %s", e.ContainerEventType, e.ContainerId, kind, id)
			}
			return e
		case <-time.After(patience):
			t.Fatalf("no event; want %v", kind)
			return nil
		}
	}
	p := shared.runPod(t, hostNetwork)
	next(p.id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	e := next(p.id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	same(t, "pod in the snapshot", e.PodSandboxStatus.GetId(), p.id)
	c := p.create(shell("exit 9"))
	next(c.id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	c.start()
	next(c.id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	e = next(c.id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	if len(e.ContainersStatuses) != 1 || e.ContainersStatuses[0].ExitCode != 9 || e.ContainersStatuses[0].State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("snapshot at the end: %v", e.ContainersStatuses)
	}
	if err := shared.runtime.RemoveContainer(t.Context(), c.id); err != nil {
		t.Fatal(err)
	}
	next(c.id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	p.remove()
	next(p.id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	next(p.id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
}
