package runtimeservice

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// containerVolumes is what a container has mounted beside its root file system
// and that the node makes for it.
type containerVolumes struct {
	images map[int]spec.ImageMount
	own    []spec.Volume
}

// makeVolumes mounts the images among the container's mounts and makes the volumes
// that its own image declares. The root file system is mounted; what is made here
// is removed with it.
func (s *Service) makeVolumes(ctx context.Context, sb *sandbox, rec *record.Container, config *runtimeapi.ContainerConfig, image *ocispec.Image) (*containerVolumes, error) {
	v := &containerVolumes{images: map[int]spec.ImageMount{}}
	for i, m := range config.GetMounts() {
		if m.GetImage().GetImage() == "" {
			continue // package spec says what is wrong with one that is empty
		}
		mounted, err := s.mountImage(ctx, sb, rec, m.GetImage())
		if err != nil {
			return nil, fmt.Errorf("%w: config.mounts[%s].image.image: %w", crierrors.ErrImageVolumeMountFailed, strconv.Itoa(i), err)
		}
		v.images[i] = mounted
	}
	paths, err := spec.ImageVolumes(config, image)
	if err != nil || len(paths) == 0 {
		return v, err
	}
	dirs, err := s.opts.Volumes.MakeVolumes(ctx, rec.ID, paths)
	if err != nil {
		return nil, fmt.Errorf("make the volumes that the image declares: %w", err)
	}
	for i, p := range paths {
		if rec.FileLabel != "" {
			if err := s.opts.Labels.Relabel(ctx, dirs[i], rec.FileLabel); err != nil {
				return nil, fmt.Errorf("make the volumes that the image declares: %w", err)
			}
		}
		v.own = append(v.own, spec.Volume{Source: dirs[i], Destination: p})
	}
	return v, nil
}

// mountImage mounts an image for the container. It is not pulled if it is not
// there: that is the client's part.
func (s *Service) mountImage(ctx context.Context, sb *sandbox, rec *record.Container, asked *runtimeapi.ImageSpec) (spec.ImageMount, error) {
	image := asked.GetImage()
	if err := s.admit(ctx, sb, image, asked); err != nil {
		return spec.ImageMount{}, err
	}
	resp, err := s.opts.Images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: image}, false)
	if err != nil {
		return spec.ImageMount{}, err
	}
	root, err := s.opts.Volumes.MountImage(ctx, rec.ID, cmp.Or(resp.GetImage().GetId(), image), rec.FileLabel, sb.userNamespace())
	if err != nil {
		return spec.ImageMount{}, err
	}
	return spec.ImageMount{ID: resp.GetImage().GetId(), Root: root}, nil
}
