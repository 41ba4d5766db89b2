package runtimeservice

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tellContainer publishes an event of a container; tellSandbox one of the
// sandbox itself, as kubelets know it from runtimes where a sandbox is a
// container. Each carries the state of the whole pod. Those of one pod are
// published one after the other, so none shows an older state than the one
// before it.
func (s *Service) tellContainer(c *container, kind runtimeapi.ContainerEventType) {
	s.tell(c.sandbox, c.id, kind)
}

func (s *Service) tellSandbox(sb *sandbox, kind runtimeapi.ContainerEventType) {
	s.tell(sb, sb.id, kind)
}

func (s *Service) tell(sb *sandbox, id string, kind runtimeapi.ContainerEventType) {
	sb.telling.Lock()
	defer sb.telling.Unlock()
	if !s.events.Listening() {
		return
	}
	s.events.Publish(&runtimeapi.ContainerEventResponse{
		ContainerId:        id,
		ContainerEventType: kind,
		CreatedAt:          time.Now().UnixNano(),
		PodSandboxStatus:   sandboxStatus(sb),
		ContainersStatuses: containerStatuses(sb),
	})
}
