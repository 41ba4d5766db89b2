package fakecri

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type runtimeService struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	*Server
}

func (s *runtimeService) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "1.2.3", RuntimeApiVersion: "v1"}, nil
}

func (s *runtimeService) Status(_ context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true},
		{Type: runtimeapi.NetworkReady, Reason: "NoNetworkConfig", Message: "no configuration in /etc/cni/net.d"},
	}}, RuntimeHandlers: []*runtimeapi.RuntimeHandler{
		{Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}}, {Name: "gone"}, {Name: "runc"},
	}}
	if req.Verbose {
		resp.Info = map[string]string{
			"config":   `{"root":"/var/lib/fake"}`,
			"handlers": `[{"name":"gone","path":"/bin/gone","error":"no such file"},{"name":"runc","path":"/bin/runc","version":"runc 1.5"}]`,
		}
	}
	return resp, nil
}

func (s *runtimeService) RunPodSandbox(_ context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.newID()
	s.pods[id] = &runtimeapi.PodSandboxStatus{
		Id: id, Metadata: req.Config.Metadata, CreatedAt: time.Now().UnixNano(), State: runtimeapi.PodSandboxState_SANDBOX_READY,
		Labels: req.Config.Labels, Annotations: req.Config.Annotations, RuntimeHandler: req.RuntimeHandler,
	}
	s.podConfigs[id] = req.Config
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *runtimeService) StopPodSandbox(_ context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	s.killPod(req.PodSandboxId)
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pods[req.PodSandboxId]; p != nil {
		p.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (s *runtimeService) RemovePodSandbox(_ context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	s.killPod(req.PodSandboxId)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, req.PodSandboxId)
	for id, c := range s.containers {
		if c.podID == req.PodSandboxId {
			delete(s.containers, id)
		}
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (s *runtimeService) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pods[req.PodSandboxId]
	if p == nil {
		return nil, notFound("pod", req.PodSandboxId)
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: p}
	if req.Verbose {
		resp.Info = map[string]string{"info": `{"netns":"/run/fake/net"}`}
	}
	return resp, nil
}

func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (s *runtimeService) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := req.GetFilter()
	resp := &runtimeapi.ListPodSandboxResponse{}
	for _, p := range s.pods {
		if !strings.HasPrefix(p.Id, f.GetId()) || !matches(p.Labels, f.GetLabelSelector()) ||
			f.GetState() != nil && f.State.State != p.State {
			continue
		}
		resp.Items = append(resp.Items, &runtimeapi.PodSandbox{
			Id: p.Id, Metadata: p.Metadata, State: p.State, CreatedAt: p.CreatedAt,
			Labels: p.Labels, Annotations: p.Annotations, RuntimeHandler: p.RuntimeHandler,
		})
	}
	return resp, nil
}

func (s *runtimeService) CreateContainer(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[req.PodSandboxId] == nil {
		return nil, notFound("pod", req.PodSandboxId)
	}
	id := s.newID()
	s.containers[id] = newContainer(req.PodSandboxId, req.Config, &runtimeapi.ContainerStatus{
		Id: id, Metadata: req.Config.Metadata, Image: req.Config.Image, ImageId: req.Config.GetImage().GetImage(),
		CreatedAt: time.Now().UnixNano(), Labels: req.Config.Labels, Annotations: req.Config.Annotations,
		LogPath: filepath.Join(req.SandboxConfig.LogDirectory, req.Config.LogPath),
	})
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (s *runtimeService) StartContainer(_ context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	s.mu.Lock()
	c := s.containers[req.ContainerId]
	s.mu.Unlock()
	if c == nil {
		return nil, notFound("container", req.ContainerId)
	}
	// A program here starts in no time, so who was promised a stream is waited
	// for, lest a test depends on who is faster.
	for range 2000 {
		if c.promised.Load() == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.start(c); err != nil {
		return nil, status.Errorf(codes.Unknown, "start container: %v", err)
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

func (s *runtimeService) StopContainer(_ context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	s.mu.Lock()
	c := s.containers[req.ContainerId]
	s.mu.Unlock()
	if c != nil {
		c.stop(time.Duration(req.Timeout) * time.Second)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (s *runtimeService) RemoveContainer(_ context.Context, req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	s.mu.Lock()
	c := s.containers[req.ContainerId]
	delete(s.containers, req.ContainerId)
	s.mu.Unlock()
	if c != nil {
		c.stop(0)
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (s *runtimeService) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[req.ContainerId]
	if c == nil {
		return nil, notFound("container", req.ContainerId)
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: proto.CloneOf(c.status)}
	if req.Verbose {
		resp.Info = map[string]string{"info": `{"pid":42}`, "note": "not JSON"}
	}
	return resp, nil
}

func (s *runtimeService) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := req.GetFilter()
	resp := &runtimeapi.ListContainersResponse{}
	for _, c := range s.containers {
		st := c.status
		if !strings.HasPrefix(st.Id, f.GetId()) || !matches(st.Labels, f.GetLabelSelector()) ||
			f.GetState() != nil && f.State.State != st.State || f.GetPodSandboxId() != "" && f.PodSandboxId != c.podID {
			continue
		}
		resp.Containers = append(resp.Containers, &runtimeapi.Container{
			Id: st.Id, PodSandboxId: c.podID, Metadata: st.Metadata, Image: st.Image, ImageRef: st.ImageRef, ImageId: st.ImageId,
			State: st.State, CreatedAt: st.CreatedAt, Labels: st.Labels, Annotations: st.Annotations,
		})
	}
	return resp, nil
}

func (s *runtimeService) ListContainerStats(_ context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &runtimeapi.ListContainerStatsResponse{Stats: slices.Clone(s.stats)}
	// The CPU counter goes on, by half a core.
	for i, st := range s.stats {
		s.stats[i] = proto.CloneOf(st)
		if cpu := s.stats[i].Cpu; cpu != nil && cpu.UsageNanoCores == nil {
			cpu.Timestamp += int64(time.Second)
			cpu.UsageCoreNanoSeconds.Value += uint64(time.Second / 2)
		}
	}
	return resp, nil
}

func (s *runtimeService) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: s.podStats}, nil
}

func (s *runtimeService) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream runtimeapi.RuntimeService_GetContainerEventsServer) error {
	events := make(chan *runtimeapi.ContainerEventResponse, 64)
	s.mu.Lock()
	s.listeners[events] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, events)
		s.mu.Unlock()
	}()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e := <-events:
			if e == nil {
				return nil
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

func (s *runtimeService) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: []*runtimeapi.MetricDescriptor{
		{Name: "memory", Help: "Bytes.", LabelKeys: []string{"pod", "container"}},
		{Name: "cpu", Help: "Seconds.", LabelKeys: []string{"pod", "container"}},
	}}, nil
}

// StreamPodSandboxMetrics gives each pod a metric, and a container that is named
// to be written with care.
func (s *runtimeService) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream runtimeapi.RuntimeService_StreamPodSandboxMetricsServer) error {
	s.mu.Lock()
	var pages []*runtimeapi.StreamPodSandboxMetricsResponse
	for id, pod := range s.pods {
		name := pod.GetMetadata().GetName()
		metric := func(metric, container string, kind runtimeapi.MetricType, value uint64) []*runtimeapi.Metric {
			return []*runtimeapi.Metric{{Name: metric, MetricType: kind, LabelValues: []string{name, container}, Value: &runtimeapi.UInt64Value{Value: value}}}
		}
		pages = append(pages, &runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: []*runtimeapi.PodSandboxMetrics{{
			PodSandboxId: id, Metrics: metric("memory", "", runtimeapi.MetricType_GAUGE, 100),
			ContainerMetrics: []*runtimeapi.ContainerMetrics{{ContainerId: "c", Metrics: metric("cpu", `a"b`, runtimeapi.MetricType_COUNTER, 7)}},
		}}})
	}
	s.mu.Unlock()
	for _, page := range pages {
		if err := stream.Send(page); err != nil {
			return err
		}
	}
	return nil
}

func (s *runtimeService) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return &runtimeapi.CheckpointContainerResponse{}, nil
}

func (s *runtimeService) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	return &runtimeapi.CheckpointPodResponse{}, nil
}

func (s *runtimeService) RestorePod(_ context.Context, req *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	resp := &runtimeapi.RestorePodResponse{PodSandboxId: "restored"}
	for _, c := range req.ContainerConfigs {
		resp.RestoredContainers = append(resp.RestoredContainers, &runtimeapi.RestoredContainer{
			Name: c.GetMetadata().GetName(), ContainerId: "restored-" + c.GetMetadata().GetName(),
		})
	}
	return resp, nil
}
