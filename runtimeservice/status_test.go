package runtimeservice

import (
	"encoding/json"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cni"
)

func TestRuntimeStatus(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	condition := func(resp *runtimeapi.StatusResponse, kind string) *runtimeapi.RuntimeCondition {
		for _, c := range resp.GetStatus().GetConditions() {
			if c.GetType() == kind {
				return c
			}
		}
		t.Fatalf("no condition %s in %v", kind, resp)
		return nil
	}
	resp, err := s.RuntimeStatus(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if !condition(resp, "RuntimeReady").GetStatus() || !condition(resp, "NetworkReady").GetStatus() {
		t.Errorf("conditions %v", resp.GetStatus())
	}
	if len(resp.GetRuntimeHandlers()) != 2 || resp.GetRuntimeHandlers()[0].GetName() != "" || resp.GetRuntimeHandlers()[1].GetName() != "berth" || !resp.GetFeatures().GetSupplementalGroupsPolicy() {
		t.Errorf("handlers %v, features %v", resp.GetRuntimeHandlers(), resp.GetFeatures())
	}
	for key, info := range resp.GetInfo() {
		if !json.Valid([]byte(info)) {
			t.Errorf("info %s is no JSON: %s", key, info)
		}
	}
	n.network.status = cni.Status{Reason: "NoNetworkConfig", Message: "put one into /etc/cni/net.d"}
	n.on("info", boom)
	resp, err = s.RuntimeStatus(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if c := condition(resp, "NetworkReady"); c.GetStatus() || c.GetReason() != "NoNetworkConfig" || c.GetMessage() == "" {
		t.Errorf("network %v", c)
	}
	if c := condition(resp, "RuntimeReady"); c.GetStatus() || c.GetReason() == "" || c.GetMessage() == "" {
		t.Errorf("runtime %v", c)
	}
	if len(resp.GetInfo()) != 0 {
		t.Error("info without being asked")
	}
}

func TestVerboseContainerStatus(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	pod := mustRun(t, s, podConfig("web"))
	id := mustStart(t, s, pod, "app")
	resp, err := s.ContainerStatus(t.Context(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		SandboxID   string
		Pid         int
		RuntimeSpec struct{ Process struct{ Args []string } }
		Config      struct{ Metadata struct{ Name string } }
	}
	if err := json.Unmarshal([]byte(resp.GetInfo()["info"]), &info); err != nil {
		t.Fatal(err)
	}
	if info.SandboxID != pod || info.Pid == 0 || len(info.RuntimeSpec.Process.Args) != 2 || info.Config.Metadata.Name != "app" {
		t.Errorf("info %+v", info)
	}
}
