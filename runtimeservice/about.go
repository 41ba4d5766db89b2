package runtimeservice

import (
	"context"

	"github.com/berth-cri/berth/operation"
)

// aboutSandbox says which pod the context's operation is about, and
// aboutContainer which container, so that those who list operations, and the
// audit, need not look it up.
func aboutSandbox(ctx context.Context, sb *sandbox) {
	operation.About(ctx, func(s *operation.Subject) { sb.tell(s) })
}

func aboutContainer(ctx context.Context, c *container) {
	operation.About(ctx, func(s *operation.Subject) {
		c.sandbox.tell(s)
		s.Container, s.ContainerID = c.key.name, c.id
		s.Image = c.rec.Load().ImageName
	})
}

func (sb *sandbox) tell(s *operation.Subject) {
	s.Namespace, s.Pod, s.UID, s.SandboxID = sb.key.namespace, sb.key.name, sb.key.uid, sb.id
}
