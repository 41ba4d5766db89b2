package runtimeservice

import (
	"context"
	"fmt"

	"github.com/berth-cri/berth/runtimeservice/namespaces"
)

// ContainerFiles says what one needs to know to understand what a container wrote.
type ContainerFiles struct {
	ID string
	// Mounts are the absolute paths at which it has something mounted.
	Mounts []string
	// Mapping is that of its user namespace, nil for the node's.
	Mapping *namespaces.UserMapping
}

// ContainerFiles finds the container that an ID, or the beginning of one, names.
func (s *Service) ContainerFiles(ctx context.Context, id string) (ContainerFiles, error) {
	c, err := s.containers.find(id)
	if err != nil {
		return ContainerFiles{}, err
	}
	aboutContainer(ctx, c)
	ociSpec, err := s.specs.Get(c.id)
	if err != nil {
		return ContainerFiles{}, fmt.Errorf("read specification of container %s: %w", c.id, err)
	}
	files := ContainerFiles{ID: c.id, Mapping: userMapping(c.sandbox.config)}
	for _, m := range ociSpec.Mounts {
		files.Mounts = append(files.Mounts, m.Destination)
	}
	return files, nil
}
