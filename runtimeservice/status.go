package runtimeservice

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// Messages made here share maps and messages with the configurations they come
// from: they are for being sent, not for being changed.

// PodSandboxStatus returns the sandbox and its containers. The ID may be the
// beginning of one; ErrNotFound if there is none.
func (s *Service) PodSandboxStatus(_ context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	sb, err := s.sandboxes.find(id)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.PodSandboxStatusResponse{
		Status:             sandboxStatus(sb),
		ContainersStatuses: containerStatuses(sb),
		Timestamp:          time.Now().UnixNano(),
	}
	if verbose {
		resp.Info, err = s.sandboxInfo(sb)
	}
	return resp, err
}

// ListPodSandbox returns the sandboxes that pass the filter, the newest first.
func (s *Service) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	items := []*runtimeapi.PodSandbox{}
	for _, sb := range s.sandboxes.all() {
		state := sb.criState()
		if !strings.HasPrefix(sb.id, filter.GetId()) ||
			filter.GetState() != nil && filter.GetState().GetState() != state ||
			!selects(filter.GetLabelSelector(), sb.config.GetLabels()) {
			continue
		}
		rec := sb.rec.Load()
		items = append(items, &runtimeapi.PodSandbox{
			Id:             sb.id,
			Metadata:       sb.config.GetMetadata(),
			State:          state,
			CreatedAt:      rec.CreatedAt,
			Labels:         sb.config.GetLabels(),
			Annotations:    sb.config.GetAnnotations(),
			RuntimeHandler: rec.Handler,
		})
	}
	slices.SortFunc(items, func(a, b *runtimeapi.PodSandbox) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(a.Id, b.Id))
	})
	return items, nil
}

// ContainerStatus returns the container. The ID may be the beginning of one;
// ErrNotFound if there is none.
func (s *Service) ContainerStatus(_ context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.containers.find(id)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: containerStatus(c)}
	if verbose {
		resp.Info, err = s.containerInfo(c)
	}
	return resp, err
}

// ListContainers returns the containers that pass the filter, the newest first.
func (s *Service) ListContainers(_ context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	items := []*runtimeapi.Container{}
	for _, c := range s.containers.all() {
		state := c.criState()
		if !strings.HasPrefix(c.id, filter.GetId()) ||
			!strings.HasPrefix(c.sandbox.id, filter.GetPodSandboxId()) ||
			filter.GetState() != nil && filter.GetState().GetState() != state ||
			!selects(filter.GetLabelSelector(), c.config.GetLabels()) {
			continue
		}
		rec := c.rec.Load()
		items = append(items, &runtimeapi.Container{
			Id:           c.id,
			PodSandboxId: c.sandbox.id,
			Metadata:     c.config.GetMetadata(),
			Image:        c.config.GetImage(),
			ImageRef:     rec.ImageRef,
			ImageId:      rec.ImageID,
			State:        state,
			CreatedAt:    rec.CreatedAt,
			Labels:       c.config.GetLabels(),
			Annotations:  c.config.GetAnnotations(),
		})
	}
	slices.SortFunc(items, func(a, b *runtimeapi.Container) int {
		return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(a.Id, b.Id))
	})
	return items, nil
}

// selects tells whether labels have all that the selector asks for.
func selects(selector, labels map[string]string) bool {
	for key, want := range selector {
		if got, ok := labels[key]; !ok || got != want {
			return false
		}
	}
	return true
}

func sandboxStatus(sb *sandbox) *runtimeapi.PodSandboxStatus {
	rec := sb.rec.Load()
	options := sb.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options == nil {
		options = &runtimeapi.NamespaceOption{}
	}
	return &runtimeapi.PodSandboxStatus{
		Id:             sb.id,
		Metadata:       sb.config.GetMetadata(),
		State:          sb.criState(),
		CreatedAt:      rec.CreatedAt,
		Network:        sandboxNetwork(rec),
		Linux:          &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options}},
		Labels:         sb.config.GetLabels(),
		Annotations:    sb.config.GetAnnotations(),
		RuntimeHandler: rec.Handler,
	}
}

// sandboxNetwork has no addresses for a pod on the node's network, and for one
// whose network was given back: the addresses may be another's by now.
func sandboxNetwork(rec *record.Sandbox) *runtimeapi.PodSandboxNetworkStatus {
	network := &runtimeapi.PodSandboxNetworkStatus{}
	if rec.State != record.Ready || len(rec.IPs) == 0 {
		return network
	}
	network.Ip = rec.IPs[0]
	for _, ip := range rec.IPs[1:] {
		network.AdditionalIps = append(network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return network
}

func containerStatuses(sb *sandbox) []*runtimeapi.ContainerStatus {
	all := sb.all()
	statuses := make([]*runtimeapi.ContainerStatus, 0, len(all))
	for _, c := range all {
		statuses = append(statuses, containerStatus(c))
	}
	return statuses
}

func containerStatus(c *container) *runtimeapi.ContainerStatus {
	rec := c.rec.Load()
	status := &runtimeapi.ContainerStatus{
		Id:          c.id,
		Metadata:    c.config.GetMetadata(),
		State:       c.criState(),
		CreatedAt:   rec.CreatedAt,
		StartedAt:   rec.StartedAt,
		FinishedAt:  rec.FinishedAt,
		ExitCode:    rec.ExitCode,
		Image:       statusImage(c, rec),
		ImageRef:    rec.ImageRef,
		ImageId:     rec.ImageID,
		Reason:      rec.Reason,
		Message:     rec.Message,
		Labels:      c.config.GetLabels(),
		Annotations: c.config.GetAnnotations(),
		Mounts:      c.mounts,
		LogPath:     rec.LogPath,
		User:        c.user,
		StopSignal:  spec.SignalEnum(syscall.Signal(rec.StopSignal)),
	}
	if resources := c.resources.Load(); resources != nil {
		status.Resources = &runtimeapi.ContainerResources{Linux: resources}
	}
	return status
}

// statusImage is the image as it was asked for, under the name that a person
// knows.
func statusImage(c *container, rec *record.Container) *runtimeapi.ImageSpec {
	asked := c.config.GetImage()
	return &runtimeapi.ImageSpec{
		Image:              rec.ImageName,
		Annotations:        asked.GetAnnotations(),
		UserSpecifiedImage: asked.GetUserSpecifiedImage(),
		RuntimeHandler:     asked.GetRuntimeHandler(),
		ImageRef:           asked.GetImageRef(),
	}
}

// sandboxInfo is the verbose part of a sandbox's status, under the key that
// crictl users know from other runtimes.
func (s *Service) sandboxInfo(sb *sandbox) (map[string]string, error) {
	rec := sb.rec.Load()
	config, err := protojson.Marshal(sb.configInForce())
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	info := struct {
		Pid          int               `json:"pid"`
		State        record.State      `json:"state"`
		Reason       string            `json:"reason,omitempty"`
		Namespaces   map[string]string `json:"namespaces,omitempty"`
		CgroupParent string            `json:"cgroupParent"`
		Handler      string            `json:"runtimeHandler"`
		CNIResult    json.RawMessage   `json:"cniResult,omitempty"`
		Config       json.RawMessage   `json:"config"`
		Start        []startStep       `json:"start"`
	}{
		Start:        podStart(sb),
		State:        rec.State,
		Reason:       rec.Reason,
		Namespaces:   maps.Clone(rec.Namespaces),
		CgroupParent: rec.CgroupParent,
		Handler:      rec.Handler,
		Config:       config,
	}
	if json.Valid(rec.CNIResult) {
		info.CNIResult = rec.CNIResult
	}
	return verbose(info)
}

// containerInfo is the verbose part of a container's status.
func (s *Service) containerInfo(c *container) (map[string]string, error) {
	rec := c.rec.Load()
	asked := &runtimeapi.ContainerConfig{}
	if err := proto.Unmarshal(rec.Config, asked); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config, err := protojson.Marshal(asked)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	ociSpec, err := s.specs.Get(c.id)
	if err != nil {
		return nil, err
	}
	return verbose(struct {
		SandboxID  string          `json:"sandboxID"`
		Pid        int             `json:"pid"`
		State      record.State    `json:"state"`
		CgroupPath string          `json:"cgroupsPath"`
		Rootfs     string          `json:"rootfs"`
		Spec       *specs.Spec     `json:"runtimeSpec"`
		Config     json.RawMessage `json:"config"`
		Start      []startStep     `json:"start"`
	}{
		Start:      shownSteps(rec.Start, c.key.name),
		SandboxID:  c.sandbox.id,
		Pid:        rec.Pid,
		State:      rec.State,
		CgroupPath: rec.CgroupPath,
		Rootfs:     s.rootfsDir(c.id),
		Spec:       ociSpec,
		Config:     config,
	})
}

func verbose(info any) (map[string]string, error) {
	raw, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("encode verbose information: %w", err)
	}
	return map[string]string{"info": string(raw)}, nil
}
