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
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/podfiles"
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
		s.background.Add(1)
		defer s.background.Done()
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
	looking, found := operation.Stage(ctx, stageImage)
	rec, image, err := s.newContainerRecord(looking, sb, config, from)
	found(err)
	if err != nil {
		return "", err
	}
	if err := s.labelContainer(rec, sb, config); err != nil {
		return "", err
	}
	if err := s.containerRecords.Put(rec.ID, rec); err != nil {
		s.opts.Labels.Release(rec.ID)
		return "", err
	}
	var u undo.Stack
	defer func() {
		if err == nil {
			return
		}
		undone := u.Run(ctx, s.log.With("container", rec.ID))
		if undone == nil {
			undone = s.deleteContainerRecord(rec.ID)
		}
		if undone != nil {
			s.leave(leftover{id: rec.ID, purge: s.purgeContainer})
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
	adjusting, adjusted := operation.Stage(ctx, stagePlugins)
	ociSpec, evictions, err := s.plugins.adjust(adjusting, turn, creation{sb, &created, config, ociSpec, resolved}, &u)
	adjusted(err)
	if err != nil {
		return "", err
	}
	if err := from.check(ociSpec); err != nil {
		return "", err
	}
	for _, note := range resolved.Notes {
		s.log.Warn("container gets less than it asks for", "container", rec.ID, "note", note)
	}
	u.Add("remove specification", undoTimeout, func(context.Context) error { return s.specs.Delete(rec.ID) })
	if err := s.specs.Put(rec.ID, ociSpec); err != nil {
		return "", err
	}
	if err := fillResolved(&created, resolved); err != nil {
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

// specify makes what the container is to be run by, and the volumes and labels of files
// that it speaks of.
func (s *Service) specify(ctx context.Context, sb *sandbox, rec *record.Container, config *runtimeapi.ContainerConfig, image *ocispec.Image) (*specs.Spec, *spec.Resolved, error) {
	building, built := operation.Stage(ctx, stageCreate)
	volumes, err := s.makeVolumes(building, sb, rec, config, image)
	if err != nil {
		built(err)
		return nil, nil, err
	}
	ociSpec, resolved, err := s.buildSpec(building, sb, rec, config, image, volumes)
	built(err)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(s.injectDevices(ctx, ociSpec, config), s.confine(ctx, sb, config, ociSpec)); err != nil {
		return nil, nil, err
	}
	if err := s.relabelVolumes(ctx, rec, config, ociSpec); err != nil {
		return nil, nil, err
	}
	return ociSpec, resolved, makeLogParent(rec.LogPath)
}

// newContainerRecord finds the image and writes down what is known before
// anything is made.
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

func (s *Service) buildSpec(ctx context.Context, sb *sandbox, rec *record.Container, config *runtimeapi.ContainerConfig, image *ocispec.Image, volumes *containerVolumes) (*specs.Spec, *spec.Resolved, error) {
	sandboxRec := sb.rec.Load()
	handler, err := s.handlerOf(ctx, sandboxRec)
	if err != nil {
		return nil, nil, err
	}
	if err := checkHandler(handler, config); err != nil {
		return nil, nil, err
	}
	paths := make(map[specs.LinuxNamespaceType]string)
	for kind, ociType := range ociNamespaceTypes {
		if path := sandboxRec.Namespaces[string(kind)]; path != "" {
			paths[ociType] = path
		}
	}
	if target := pidTarget(config); target != "" {
		path, err := s.targetPIDNamespace(sb, target)
		if err != nil {
			return nil, nil, err
		}
		paths[specs.PIDNamespace] = path
	}
	ociSpec, resolved, err := s.opts.BuildSpec(ctx, spec.Input{
		ID:           rec.ID,
		Sandbox:      specSandboxConfig(sb),
		Container:    config,
		Image:        image,
		Rootfs:       s.rootfsDir(rec.ID),
		Namespaces:   paths,
		PodFiles:     s.podFiles(sb),
		ImageMounts:  volumes.images,
		Volumes:      volumes.own,
		CgroupsPath:  rec.CgroupPath,
		ProcessLabel: rec.ProcessLabel,
		FileLabel:    rec.FileLabel,
		Defaults:     handlerDefaults(s.opts.Defaults, handler),
		Host:         s.opts.Host,
	})
	if err == nil {
		ociSpec.Version = handler.OCIVersion
	}
	return ociSpec, resolved, err
}

// ociNamespaceTypes are the names of the runtime specification for those of the
// kernel.
var ociNamespaceTypes = map[namespaces.Kind]specs.LinuxNamespaceType{
	namespaces.Network: specs.NetworkNamespace,
	namespaces.IPC:     specs.IPCNamespace,
	namespaces.UTS:     specs.UTSNamespace,
	namespaces.PID:     specs.PIDNamespace,
	namespaces.User:    specs.UserNamespace,
}

// specSandboxConfig is the sandbox's configuration with the host name that it
// has got, where the request had none.
func specSandboxConfig(sb *sandbox) *runtimeapi.PodSandboxConfig {
	if sb.config.GetHostname() != "" || sb.hostNetwork() {
		return sb.config
	}
	config := proto.Clone(sb.config).(*runtimeapi.PodSandboxConfig)
	config.Hostname = sandboxHostname(sb.config)
	return config
}

func (s *Service) podFiles(sb *sandbox) spec.PodFiles {
	paths := podfiles.In(s.sandboxDir(sb.id))
	files := spec.PodFiles{ResolvConf: paths.ResolvConf, Hostname: paths.Hostname, Shm: paths.Shm}
	if sb.config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE {
		files.Shm = "/dev/shm"
	}
	return files
}

// pidTarget is the container whose PID namespace is to be joined, or empty.
func pidTarget(config *runtimeapi.ContainerConfig) string {
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return ""
	}
	return options.GetTargetId()
}

// targetPIDNamespace is the PID namespace of a running container of the same
// sandbox, as long as it runs.
func (s *Service) targetPIDNamespace(sb *sandbox, target string) (string, error) {
	const field = "config.linux.security_context.namespace_options.target_id"
	c, err := s.containers.find(target)
	if err != nil {
		return "", fmt.Errorf("%s: %w", field, err)
	}
	if c.sandbox != sb {
		return "", invalid(field, "container %s is of another sandbox", c.id)
	}
	if err := c.requireRunning(); err != nil {
		return "", fmt.Errorf("%s: %w", field, err)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", c.rec.Load().Pid), nil
}

// fillResolved writes what building the specification found out to the record.
func fillResolved(rec *record.Container, resolved *spec.Resolved) error {
	rec.StopSignal = int(resolved.StopSignal)
	for _, mount := range resolved.Mounts {
		raw, err := proto.Marshal(mount)
		if err != nil {
			return fmt.Errorf("encode mounts: %w", err)
		}
		rec.Mounts = append(rec.Mounts, raw)
	}
	if resolved.User == nil {
		return nil
	}
	var err error
	if rec.User, err = proto.Marshal(resolved.User); err != nil {
		return fmt.Errorf("encode user: %w", err)
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
