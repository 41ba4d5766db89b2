package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
	"github.com/berth-cri/berth/runtimeservice/undo"
)

// CreateContainer makes a container in a ready sandbox and returns its ID. Its
// root file system is mounted and its specification is fixed; nothing runs.
//
// Calls with the same sandbox and metadata join as those of RunPodSandbox do.
// sandboxConfig repeats what RunPodSandbox had and is not used: the sandbox's own
// configuration does not change. After an error nothing is left.
func (s *Service) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	sb, err := s.sandboxes.find(sandboxID)
	if err != nil {
		return "", err
	}
	aboutSandbox(ctx, sb)
	if err := validateContainer(sb, config); err != nil {
		return "", err
	}
	key := containerKey{sb.id, config.GetMetadata().GetName(), config.GetMetadata().GetAttempt()}
	id, err := s.creates.Do(ctx, key, func(ctx context.Context) (id string, err error) {
		s.background.begin()
		defer s.background.end()
		if id, exists := s.containers.named(key); exists {
			return "", fmt.Errorf("it exists with ID %s; remove it, or count the attempt up: %w", id, errdefs.ErrAlreadyExists)
		}
		ctx, cancel := context.WithTimeout(ctx, createContainerTimeout)
		defer cancel()
		var timings *operation.Timings
		defer func() { s.noteCreated(sb, key.name, timings, err) }()
		if err := sb.join(ctx); err != nil {
			return "", err
		}
		defer sb.leave()
		ctx, timings = collectStart(ctx)
		from, err := s.checkpointNamed(ctx, sb, config)
		if err != nil {
			return "", err
		}
		defer s.dropSource(from)
		return s.createContainer(ctx, sb, config, timings, from)
	})
	if err != nil {
		return "", fmt.Errorf("create container %q (attempt %d) in sandbox %s: %w", key.name, key.attempt, sb.id, err)
	}
	s.containerDelivered(id)
	return id, nil
}

// containerDelivered is sandboxDelivered for a container.
func (s *Service) containerDelivered(id string) {
	c, ok := s.containers.get(id)
	if !ok {
		return
	}
	// In memory: the record of the start, which follows, carries it to disk.
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.rec.Load()
	next.Delivered = true
	c.rec.Store(&next)
}

// createContainer makes the container, or undoes what it has made of it. With from, which
// may be nil, it goes on from a checkpoint when it is started. The caller has joined the
// sandbox.
func (s *Service) createContainer(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig, timings *operation.Timings, from *source) (id string, err error) {
	rec, image, err := s.beginContainer(ctx, sb, config, from)
	if err != nil {
		return "", err
	}
	var u undo.Stack
	defer func() {
		if err != nil {
			s.takeBack(ctx, s.log.With("container", rec.ID), rec.ID, &u, s.deleteContainerRecord, s.purgeContainer)
		}
	}()
	if err := operation.Do(ctx, stageMount, func(ctx context.Context) error { return s.mountContainerRootfs(ctx, sb, rec, from, &u) }); err != nil {
		return "", err
	}
	ociSpec, resolved, err := s.specify(ctx, sb, rec, config, image)
	if err != nil {
		return "", err
	}
	created := *rec
	turn := s.plugins.begin()
	defer turn.End()
	ociSpec, evictions, err := s.settleSpec(ctx, turn, creation{sb, &created, config, ociSpec, resolved}, from, &u)
	if err != nil {
		return "", err
	}
	created.State = record.Created
	created.Start = s.startSteps(timings)
	c, err := newContainer(&created, sb, s.containerRecords)
	if err != nil {
		return "", err
	}
	if err := s.containerRecords.Put(created.ID, &created); err != nil {
		return "", err
	}
	u.Release()
	c.spec = ociSpec
	sb.addContainer(c)
	s.containers.add(c.id, c.key, c)
	s.plugins.containerCreated(ctx, turn, c, ociSpec)
	turn.End()
	s.plugins.evict(ctx, evictions)
	s.tellContainer(c, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return c.id, nil
}

// beginContainer finds the image and puts on record what is known before anything is made.
func (s *Service) beginContainer(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig, from *source) (*record.Container, *ocispec.Image, error) {
	looking, found := operation.Stage(ctx, stageImage)
	rec, image, err := s.newContainerRecord(looking, sb, config, from)
	found(err)
	if err != nil {
		return nil, nil, err
	}
	if err := s.labelContainer(rec, sb, config); err != nil {
		return nil, nil, err
	}
	if err := s.containerRecords.Put(rec.ID, rec); err != nil {
		s.opts.Labels.Release(rec.ID)
		return nil, nil, err
	}
	return rec, image, nil
}

func (s *Service) newContainerRecord(ctx context.Context, sb *sandbox, config *runtimeapi.ContainerConfig, from *source) (*record.Container, *ocispec.Image, error) {
	path, err := logPath(sb, config)
	if err != nil {
		return nil, nil, err
	}
	ref := from.image(config.GetImage().GetImage())
	imageID, image, err := s.opts.Images.Image(ctx, ref)
	if err != nil {
		return nil, nil, fmt.Errorf("find image %q: %w", ref, err)
	}
	if err := s.admit(ctx, sb, imageID, config.GetImage()); err != nil {
		return nil, nil, err
	}
	raw, err := proto.Marshal(config)
	if err != nil {
		return nil, nil, fmt.Errorf("encode configuration: %w", err)
	}
	rec := &record.Container{
		ID:        newID(),
		SandboxID: sb.id,
		State:     record.Creating,
		BootID:    s.opts.BootID,
		CreatedAt: time.Now().UnixNano(),
		Config:    raw,
		ImageID:   imageID,
		LogPath:   path,
	}
	from.fill(rec)
	if rec.CgroupPath, err = spec.CgroupsPath(s.opts.SystemdCgroup, sb.rec.Load().CgroupParent, "", rec.ID); err != nil {
		return nil, nil, err
	}
	rec.ImageName, rec.ImageRef, err = s.imageNames(ctx, config.GetImage(), imageID)
	return rec, image, err
}

// admit asks whether the sandbox's pod may use an image.
func (s *Service) admit(ctx context.Context, sb *sandbox, image string, asked *runtimeapi.ImageSpec) error {
	return s.opts.Images.Admit(ctx, image, asked.GetUserSpecifiedImage(), sb.config.GetMetadata().GetNamespace())
}

// imageNames returns what a container's status calls its image: the name that a
// person gave it, and its digest in a registry. Either is the ID for an image
// that has none.
func (s *Service) imageNames(ctx context.Context, asked *runtimeapi.ImageSpec, imageID string) (name, ref string, err error) {
	resp, err := s.opts.Images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: imageID}, false)
	if err != nil {
		return "", "", fmt.Errorf("find names of image %s: %w", imageID, err)
	}
	name, ref = asked.GetImage(), imageID
	if digests := resp.GetImage().GetRepoDigests(); len(digests) > 0 {
		ref = digests[0]
	}
	tags := resp.GetImage().GetRepoTags()
	switch {
	case asked.GetUserSpecifiedImage() != "":
		name = asked.GetUserSpecifiedImage()
	case strings.HasPrefix(strings.TrimPrefix(imageID, "sha256:"), strings.TrimPrefix(name, "sha256:")) && len(tags) > 0:
		// The kubelet names the image by its ID.
		name = tags[0]
	}
	return name, ref, nil
}

func (s *Service) mountContainerRootfs(ctx context.Context, sb *sandbox, rec *record.Container, from *source, u *undo.Stack) error {
	dir := s.rootfsDir(rec.ID)
	u.Add("remove root file system", undoTimeout, func(ctx context.Context) error { return s.removeRootfs(ctx, rec.ID) })
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make mount point of root file system: %w", err)
	}
	if err := openTo(rootOf(sb.config), filepath.Dir(dir)); err != nil {
		return fmt.Errorf("make mount point of root file system: %w", err)
	}
	if from != nil {
		return s.mountFrom(ctx, sb, rec, from, dir, u)
	}
	if err := s.opts.RootFilesystems.MountRootfs(ctx, rec.ID, rec.ImageID, dir, rec.FileLabel, sb.userNamespace()); err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	return nil
}

// removeRootfs unmounts and removes the root file system and its mount point;
// idempotent. Nothing is removed recursively: it could be in the mount.
func (s *Service) removeRootfs(ctx context.Context, id string) error {
	if err := s.opts.RootFilesystems.RemoveRootfs(ctx, id); err != nil {
		return fmt.Errorf("remove root file system: %w", err)
	}
	dir := s.rootfsDir(id)
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove mount point of root file system: %w", err)
		}
	}
	return nil
}

// makeLogParent makes the directory of a log, which the kubelet does for its
// pods and other clients may not.
func makeLogParent(path string) error {
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory of log: %w", err)
	}
	return nil
}
