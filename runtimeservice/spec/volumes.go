package spec

import (
	"maps"
	"path"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxImageVolumes bounds the volumes that an image may declare; each costs a
// mount of every container.
const maxImageVolumes = 128

const imageVolumesField = "image volumes"

// ImageVolumes gives the paths, clean and in order, where a container is to have
// volumes of its own because its image declares them: those that no mount of the
// request is at or above. A volume over the kernel's file systems is
// InvalidArgument: an image does not replace /proc.
func ImageVolumes(c *runtimeapi.ContainerConfig, image *ocispec.Image) ([]string, error) {
	if image == nil || len(image.Config.Volumes) == 0 {
		return nil, nil
	}
	if n := len(image.Config.Volumes); n > maxImageVolumes {
		return nil, invalid(imageVolumesField, "%d are more than %d", n, maxImageVolumes)
	}
	paths := map[string]struct{}{}
	for declared := range image.Config.Volumes {
		// Dockerfiles may name it relative to the root.
		p := path.Clean("/" + declared)
		if p == "/" || p == "/dev" || under(p, "/proc") || under(p, "/sys") || hasNUL(declared) {
			return nil, invalid(imageVolumesField, "%q is not a place for a volume", declared)
		}
		if !covered(p, c.GetMounts()) {
			paths[p] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(paths)), nil
}

func covered(p string, mounts []*runtimeapi.Mount) bool {
	return slices.ContainsFunc(mounts, func(m *runtimeapi.Mount) bool {
		return under(p, path.Clean("/"+m.GetContainerPath()))
	})
}
