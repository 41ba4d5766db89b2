package runtimeservice

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// monitorAnswers is how long Status waits for the monitor before it calls the
// runtime not ready.
const monitorAnswers = 2 * time.Second

// RuntimeStatus tells whether pods can be run and, if not, what a person can do
// about it.
func (s *Service) RuntimeStatus(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	monitorCtx, cancel := context.WithTimeout(ctx, monitorAnswers)
	defer cancel()
	info, err := s.opts.Processes.Info(monitorCtx)
	network := s.networkCondition()
	resp := &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{runtimeCondition(err), network}},
		RuntimeHandlers: s.runtimeHandlers(s.opts.Handlers.List()),
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	if verbose {
		resp.Info, err = s.runtimeInfo(info, err)
		return resp, err
	}
	return resp, nil
}

func runtimeCondition(monitorErr error) *runtimeapi.RuntimeCondition {
	condition := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: true}
	if monitorErr != nil {
		condition.Status = false
		condition.Reason = "MonitorNotReady"
		condition.Message = fmt.Sprintf("berth-monitor does not answer: %v", monitorErr)
	}
	return condition
}

func (s *Service) networkCondition() *runtimeapi.RuntimeCondition {
	status := s.opts.Network.Status()
	return &runtimeapi.RuntimeCondition{
		Type:    runtimeapi.NetworkReady,
		Status:  status.Ready,
		Reason:  status.Reason,
		Message: status.Message,
	}
}

func (s *Service) runtimeInfo(info monitor.Info, monitorErr error) (map[string]string, error) {
	about := struct {
		Root          string `json:"root"`
		State         string `json:"state"`
		BootID        string `json:"bootID"`
		CgroupV2      bool   `json:"cgroupV2"`
		SystemdCgroup bool   `json:"systemdCgroup"`
		CgroupParent  string `json:"cgroupParent"`
		// UserNamespaces is true, or says why pods cannot have one.
		UserNamespaces any           `json:"userNamespaces"`
		Sandboxes      int           `json:"sandboxes"`
		Containers     int           `json:"containers"`
		Monitor        *monitor.Info `json:"monitor,omitempty"`
		MonitorError   string        `json:"monitorError,omitempty"`
	}{
		Root:           s.opts.Root,
		State:          s.opts.State,
		BootID:         s.opts.BootID,
		SystemdCgroup:  s.opts.SystemdCgroup,
		CgroupParent:   s.opts.CgroupParent,
		UserNamespaces: true,
		Sandboxes:      len(s.sandboxes.all()),
		Containers:     len(s.containers.all()),
	}
	if s.userNamespaces != nil {
		about.UserNamespaces = s.userNamespaces.Error()
	}
	if s.opts.Host != nil {
		about.CgroupV2 = s.opts.Host.CgroupV2
	}
	if monitorErr != nil {
		about.MonitorError = monitorErr.Error()
	} else {
		about.Monitor = &info
	}
	raw, err := json.Marshal(about)
	if err != nil {
		return nil, fmt.Errorf("encode verbose information: %w", err)
	}
	ways, err := json.Marshal(describeHandlers(s.opts.Handlers.List()))
	if err != nil {
		return nil, fmt.Errorf("encode verbose information: %w", err)
	}
	all := map[string]string{"runtime": string(raw), "handlers": string(ways)}
	if s.opts.Info != nil {
		maps.Copy(all, s.opts.Info())
	}
	return all, nil
}
