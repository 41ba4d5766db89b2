package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// ImageMount is an image of the request's mounts as it is mounted on the node.
type ImageMount struct {
	// ID is the image's.
	ID string
	// Root is the host path of the mounted image, an absolute path. It does not
	// change.
	Root string
}

// Volume is a directory of the node that the container has for itself, at a path
// where its image wants one.
type Volume struct {
	Source, Destination string
}

// maxSubPathLinks is how many links a sub-path may lead through, as in the kernel.
const maxSubPathLinks = 40

// imageMountOptions are those of all image volumes: what lies in an image is nobody's
// device. Programs in it may be run, unless mount_options says noexec.
var imageMountOptions = []string{"rprivate", "ro", "nosuid", "nodev"}

// checkImageMount checks what the mount of an image says.
func checkImageMount(field string, m *runtimeapi.Mount) error {
	switch sub := m.GetImageSubPath(); {
	case m.GetImage().GetImage() == "":
		return invalid(field+".image.image", "no image is named")
	case m.GetHostPath() != "":
		return invalid(field+".host_path", "must be empty for an image")
	case m.GetSelinuxRelabel():
		return invalid(field+".selinux_relabel", "an image is shared and read-only")
	case hasNUL(sub) || sub != "" && !filepath.IsLocal(sub):
		return invalid(field+".image_sub_path", "%q is not a path within the image", sub)
	case m.GetPropagation() == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return invalid(field+".propagation", "nothing can be mounted in an image")
	}
	return nil
}

// resolveImageMount gives the bind mount of an image, or of a path within it.
func resolveImageMount(field string, m *runtimeapi.Mount, image ImageMount) (hostMount, error) {
	source, err := subPath(image.Root, m.GetImageSubPath())
	if err != nil {
		return hostMount{}, fmt.Errorf("%w: %s.image_sub_path: %q: %w", crierrors.ErrImageVolumeMountFailed, field, m.GetImageSubPath(), err)
	}
	h := hostMount{mount: bind(source, path.Clean(m.GetContainerPath()), imageMountOptions...)}
	h.mount.Options = withMountOptions(h.mount.Options, m)
	return h, nil
}

// subPath resolves a path within the tree at root, which does not change
// meanwhile. Links are followed as a container with that root would; one that
// climbs above the root is refused.
func subPath(root, sub string) (string, error) {
	var at []string // components that are known to be no links
	rest := strings.Split(sub, "/")
	for links := 0; len(rest) > 0; {
		next := rest[0]
		rest = rest[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return "", fmt.Errorf("a link leads out of the image: %w", errdefs.ErrInvalidArgument)
			}
			at = at[:len(at)-1]
			continue
		}
		here := path.Join(root, path.Join(at...), next)
		st, err := os.Lstat(here)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(rest) > 0 && st.Mode().IsRegular() {
			return "", fmt.Errorf("does not exist in the image: %w", errdefs.ErrNotFound)
		}
		if err != nil {
			return "", err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			at = append(at, next)
			continue
		}
		if links++; links > maxSubPathLinks {
			return "", fmt.Errorf("leads through more than %d links: %w", maxSubPathLinks, errdefs.ErrInvalidArgument)
		}
		target, err := os.Readlink(here)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			at = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return path.Join(root, path.Join(at...)), nil
}

// statusMounts are the request's mounts as the status shows them: an image by its
// ID, by which a kubelet finds it in use, and with its digest.
func statusMounts(asked []*runtimeapi.Mount, images map[int]ImageMount) []*runtimeapi.Mount {
	shown := make([]*runtimeapi.Mount, len(asked))
	for i, m := range asked {
		shown[i] = m
		if image, ok := images[i]; ok {
			m = proto.Clone(m).(*runtimeapi.Mount)
			m.Readonly = true
			m.Image.Image, m.Image.ImageRef = image.ID, image.ID
			shown[i] = m
		}
	}
	return shown
}
