package runtimeservice

import "context"

// ReopenContainerLog makes a running container's output go to a new file at its
// log path, after the old one was renamed. Nothing is lost or repeated. A
// container that does not run is ErrFailedPrecondition, and no file is made.
func (s *Service) ReopenContainerLog(ctx context.Context, id string) error {
	c, err := s.containers.find(id)
	if err != nil {
		return err
	}
	aboutContainer(ctx, c)
	if err := c.requireRunning(); err != nil {
		return err
	}
	return c.orEnded(s.opts.Processes.ReopenLog(ctx, c.id))
}
