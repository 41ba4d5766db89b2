package store

import (
	"fmt"

	"github.com/berth-cri/berth/imageservice/projectquota"
	"github.com/containerd/errdefs"
)

// Quota is how writable layers are counted and limited.
type Quota struct {
	// Limit is the most bytes that a container may write, 0 for no limit. Without project
	// quota that is enforced there is none: the store does not open then.
	Limit uint64
	// Projects are the IDs of the containers' projects. Without, or without project quota
	// on their file system, writable layers are walked.
	Projects projectquota.IDs
}

// openProjects finds out how to count. A limit that would not hold is
// errdefs.ErrFailedPrecondition.
func (s *Store) openProjects(q Quota) error {
	projects, err := projectquota.Open(s.path(rootfsDir), q.Projects)
	if err == nil && q.Limit > 0 && !projects.Enforced() {
		err = fmt.Errorf("the file system of %s counts by project but keeps no limits; mount it with prjquota", s.writable)
	}
	if err != nil && q.Limit > 0 {
		return fmt.Errorf("limit writable layers to %d bytes: %w: %w", q.Limit, err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		s.log.Debug("writable layers are walked", "reason", err)
		return nil
	}
	s.log.Info("writable layers are counted by project quota", "limit", q.Limit)
	s.projects, s.limit = projects, q.Limit
	return nil
}

// assignProject gives a container's directory a project of its own, while it is empty.
func (s *Store) assignProject(id string) (uint32, error) {
	if s.projects == nil {
		return 0, nil
	}
	return s.projects.Assign(s.path(rootfsDir, id), s.limit)
}

// projectOf is what assignProject gave a container, 0 if nothing.
func (s *Store) projectOf(id string) uint32 {
	if s.projects == nil {
		return 0
	}
	project, err := s.projects.Of(s.path(rootfsDir, id))
	if err != nil {
		s.log.Warn("find the project of a writable layer", "container", id, "error", err)
	}
	return project
}

// releaseProject is for when what belonged to it is gone. What stays of it if that fails
// does no harm: the next user of the ID sets a limit of its own.
func (s *Store) releaseProject(project uint32) {
	if project == 0 {
		return
	}
	if err := s.projects.Release(project); err != nil {
		s.log.Warn("release the project of a writable layer", "error", err)
	}
}
