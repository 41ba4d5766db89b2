package imageservice

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"

	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// lookup finds an image by anything that a user may call it: its ID, a name, a
// digest, or the beginning of its ID.
func (s *Service) lookup(name string) (*store.Image, error) {
	if name == "" {
		return nil, fmt.Errorf("no image is named: %w", errdefs.ErrInvalidArgument)
	}
	if id := digest.Digest(name); id.Validate() == nil {
		return s.store.ByID(name)
	}
	if ref, err := reference.Parse(name); err == nil {
		img, err := s.store.ByName(ref.String())
		if err == nil {
			return img, nil
		}
	}
	return s.store.ByID(name)
}

// ListImages implements ImageService.ListImages. A filter keeps the image that it
// names.
func (s *Service) ListImages(_ context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if name := f.GetImage().GetImage(); name != "" {
		img, err := s.lookup(name)
		if isNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		return []*runtimeapi.Image{s.describe(img)}, nil
	}
	images := s.store.Images()
	list := make([]*runtimeapi.Image, len(images))
	for i, img := range images {
		list[i] = s.describe(img)
	}
	return list, nil
}

// ImageStatus implements ImageService.ImageStatus. An unknown image is no error:
// the response has none then. With verbose, info holds the image's configuration
// as JSON.
func (s *Service) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	img, err := s.lookup(spec.GetImage())
	if isNotFound(err) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image status: %w", err)
	}
	resp := &runtimeapi.ImageStatusResponse{Image: s.describe(img)}
	if verbose {
		if resp.Info, err = s.verbose(img); err != nil {
			return nil, fmt.Errorf("image status of %s: %w", img.ID, err)
		}
	}
	return resp, nil
}

// verboseInfo is what `crictl inspecti` shows under "info".
type verboseInfo struct {
	ImageSpec      *ocispec.Image    `json:"imageSpec"`
	ManifestDigest string            `json:"manifestDigest"`
	MediaType      string            `json:"mediaType"`
	ArtifactType   string            `json:"artifactType,omitempty"`
	Annotations    map[string]string `json:"annotations,omitempty"`
	PulledAt       string            `json:"pulledAt"`
	Layers         []verboseLayer    `json:"layers"`
}

type verboseLayer struct {
	DiffID    string `json:"diffID"`
	Encrypted bool   `json:"encrypted,omitempty"` // in the registry
	Blob      string `json:"blob"`
	BlobSize  int64  `json:"blobSize"`
	Bytes     uint64 `json:"bytes"`
	Inodes    uint64 `json:"inodes"`
}

func (s *Service) verbose(img *store.Image) (map[string]string, error) {
	info := verboseInfo{
		ImageSpec: img.Config, ManifestDigest: img.ManifestDigest.String(), MediaType: img.MediaType, ArtifactType: img.Artifact,
		Annotations: img.Annotations, PulledAt: img.PulledAt.Format("2006-01-02T15:04:05.000Z07:00"),
	}
	for _, id := range img.Layers {
		l, err := s.store.Layer(id)
		if isNotFound(err) { // it is lost
			info.Layers = append(info.Layers, verboseLayer{DiffID: id.String()})
			continue
		}
		if err != nil {
			return nil, err
		}
		info.Layers = append(info.Layers, verboseLayer{DiffID: cmp.Or(l.Archive, id).String(), Encrypted: l.Archive != "", Blob: l.Blob.String(), BlobSize: l.Size, Bytes: l.Bytes, Inodes: l.Inodes})
	}
	b, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	return map[string]string{"info": string(b)}, nil
}

// RemoveImage implements ImageService.RemoveImage: any name of an image removes
// it with all its names. Layers that containers use stay until the last of them
// is removed. It is idempotent.
func (s *Service) RemoveImage(_ context.Context, spec *runtimeapi.ImageSpec) error {
	img, err := s.lookup(spec.GetImage())
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	if err := s.store.RemoveImage(img.ID); err != nil {
		return fmt.Errorf("remove image %q: %w", spec.GetImage(), err)
	}
	s.log.Info("removed image", "id", img.ID, "names", img.Refs())
	return nil
}

// Image returns the ID and the configuration of the image that ref names: any
// name, digest, ID or beginning of an ID. The configuration must not be changed. An
// artifact, which only can be mounted, is errdefs.ErrInvalidArgument.
func (s *Service) Image(_ context.Context, ref string) (string, *ocispec.Image, error) {
	img, err := s.lookup(ref)
	if err != nil {
		return "", nil, err
	}
	if err := runnable(img); err != nil {
		return "", nil, err
	}
	return img.ID.String(), img.Config, nil
}

// runnable refuses what no container can be made of.
func runnable(img *store.Image) error {
	if img.Artifact == "" {
		return nil
	}
	return fmt.Errorf("%s is an artifact of type %q: it can be mounted as a volume, not run: %w", img.ID, img.Artifact, errdefs.ErrInvalidArgument)
}

// describe translates an image into the CRI's terms.
func (s *Service) describe(img *store.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id:   img.ID.String(),
		Size: s.size(img),
		Spec: &runtimeapi.ImageSpec{Image: img.ID.String(), Annotations: img.Annotations, UserSpecifiedImage: img.UserSpecified},
	}
	for _, ref := range img.Refs() {
		if strings.Contains(ref, "@") {
			out.RepoDigests = append(out.RepoDigests, ref)
		} else {
			out.RepoTags = append(out.RepoTags, ref)
		}
	}
	sort.Strings(out.RepoTags)
	sort.Strings(out.RepoDigests)
	out.Uid, out.Username = user(img.Config.Config.User)
	out.Pinned = s.pinned(img)
	return out
}

// size is what the image takes on the disk, shared layers included.
func (s *Service) size(img *store.Image) uint64 {
	total := uint64(img.ConfigSize)
	seen := map[digest.Digest]bool{}
	for _, id := range img.Layers {
		if l, err := s.store.Layer(id); err == nil && !seen[id] {
			total += l.Bytes
		}
		seen[id] = true
	}
	return max(total, 1)
}

// user splits a configuration's user for the kubelet, which checks runAsNonRoot
// by it: a number that is no user ID stays a name, so that it is never taken for
// a harmless one.
func user(s string) (*runtimeapi.Int64Value, string) {
	const maxUID = 1<<31 - 1
	name, _, _ := strings.Cut(s, ":")
	if name == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseInt(name, 10, 64); err == nil && uid >= 0 && uid <= maxUID && name[0] != '+' {
		return &runtimeapi.Int64Value{Value: uid}, ""
	}
	return nil, name
}

func (s *Service) pinned(img *store.Image) bool {
	if len(img.Imports) > 0 {
		return true
	}
	for _, pattern := range s.opts.Pinned {
		for _, ref := range img.Refs() {
			if ok, err := path.Match(pattern, ref); ok && err == nil {
				return true
			}
		}
	}
	return false
}
