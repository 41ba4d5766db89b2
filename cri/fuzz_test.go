package cri

import (
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checked is a request and what the border does with it.
type checked struct {
	name  string
	make  func() proto.Message
	check func(proto.Message) error
	good  proto.Message
}

func target[R proto.Message](name string, good R, check func(R) error) checked {
	return checked{
		name:  name,
		make:  func() proto.Message { return good.ProtoReflect().New().Interface() },
		check: func(m proto.Message) error { return check(m.(R)) },
		good:  good,
	}
}

// targets are the requests with something to check.
func targets() []checked {
	return []checked{
		target("RunPodSandbox", goodRunPodSandbox(), checkRunPodSandbox),
		target("CreateContainer", goodCreateContainer(), checkCreateContainer),
		target("CheckpointContainer", goodCheckpointContainer(), checkCheckpointContainer),
		target("CheckpointPod", goodCheckpointPod(), checkCheckpointPod),
		target("RestorePod", goodRestorePod(), checkRestorePod),
		target("StopContainer", &runtimeapi.StopContainerRequest{ContainerId: "c", Timeout: 5}, checkStopContainer),
		target("UpdateContainerResources", &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: "c", Linux: goodContainerConfig().Linux.Resources,
		}, checkUpdateResources),
		target("UpdatePodSandboxResources", &runtimeapi.UpdatePodSandboxResourcesRequest{
			PodSandboxId: "p", Overhead: goodContainerConfig().Linux.Resources, Resources: goodContainerConfig().Linux.Resources,
		}, checkUpdateSandboxResources),
		target("UpdateRuntimeConfig", &runtimeapi.NetworkConfig{PodCidr: "10.0.0.0/24,fd00::/64"}, func(c *runtimeapi.NetworkConfig) error {
			_, err := podCIDRs("runtime_config.network_config.pod_cidr", c.GetPodCidr())
			return err
		}),
		target("ExecSync", &runtimeapi.ExecSyncRequest{ContainerId: "c", Cmd: []string{"a", "b"}, Timeout: 1}, checkExecSync),
		target("Exec", &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"a"}, Stdout: true}, checkExec),
		target("Attach", &runtimeapi.AttachRequest{ContainerId: "c", Stdout: true}, checkAttach),
		target("PortForward", &runtimeapi.PortForwardRequest{PodSandboxId: "a", Port: []int32{80}}, checkPortForward),
		target("PullImage", &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: "a@" + imageID}, Auth: &runtimeapi.AuthConfig{Username: "u", Password: "p"},
		}, checkPullImage),
		target("ListPodSandbox", &runtimeapi.PodSandboxFilter{Id: "a", LabelSelector: map[string]string{"a": "b"}}, checkSandboxFilter),
		target("ListContainers", &runtimeapi.ContainerFilter{Id: "a", PodSandboxId: "b"}, checkContainerFilter),
		target("ListContainerStats", &runtimeapi.ContainerStatsFilter{Id: "a"}, checkContainerStatsFilter),
		target("ListPodSandboxStats", &runtimeapi.PodSandboxStatsFilter{Id: "a"}, checkSandboxStatsFilter),
	}
}

// FuzzRequests decodes any bytes as any request: a check neither panics nor
// finds another fault than an invalid argument, whose text a client can print.
func FuzzRequests(f *testing.F) {
	all := targets()
	for i, target := range all {
		wire, err := proto.Marshal(target.good)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), wire)
		f.Add(uint8(i), []byte{})
	}
	f.Fuzz(func(t *testing.T, which uint8, wire []byte) {
		target := all[int(which)%len(all)]
		m := target.make()
		if proto.Unmarshal(wire, m) != nil {
			return
		}
		err := target.check(m)
		if err == nil {
			return
		}
		if !errdefs.IsInvalidArgument(err) || status.Code(asStatus(err)) != codes.InvalidArgument {
			t.Fatalf("%s: %v is not an invalid argument", target.name, err)
		}
		text := err.Error()
		if !utf8.ValidString(text) {
			t.Fatalf("%s: %q is not UTF-8", target.name, text)
		}
		if plain("", text) != nil {
			t.Fatalf("%s: %q has control characters", target.name, text)
		}
	})
}
