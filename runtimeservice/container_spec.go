package runtimeservice

import (
	"context"
	"errors"
	"fmt"

	nriapi "github.com/containerd/nri/pkg/api"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/nri"
	"github.com/berth-cri/berth/runtimeservice/podfiles"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
	"github.com/berth-cri/berth/runtimeservice/undo"
)

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

// settleSpec has plugins adjust the specification, saves it, and notes in the record of the
// new container what it says. It also returns the containers that are to make room.
func (s *Service) settleSpec(ctx context.Context, turn *nri.Turn, c creation, from *source, u *undo.Stack) (*specs.Spec, []*nriapi.ContainerEviction, error) {
	adjusting, adjusted := operation.Stage(ctx, stagePlugins)
	ociSpec, evictions, err := s.plugins.adjust(adjusting, turn, c, u)
	adjusted(err)
	if err != nil {
		return nil, nil, err
	}
	if err := from.check(ociSpec); err != nil {
		return nil, nil, err
	}
	for _, note := range c.resolved.Notes {
		s.log.Warn("container gets less than it asks for", "container", c.rec.ID, "note", note)
	}
	u.Add("remove specification", undoTimeout, func(context.Context) error { return s.specs.Delete(c.rec.ID) })
	if err := s.specs.Put(c.rec.ID, ociSpec); err != nil {
		return nil, nil, err
	}
	return ociSpec, evictions, fillResolved(c.rec, c.resolved)
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
