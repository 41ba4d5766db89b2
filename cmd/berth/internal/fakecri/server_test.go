package fakecri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func runtimeOf(t *testing.T, s *Server) runtimeapi.RuntimeServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(s.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return runtimeapi.NewRuntimeServiceClient(conn)
}

// The fake has to keep to what the tests take for granted of a runtime.
func TestLifeOfAContainer(t *testing.T) {
	s := Start(t, Options{Program: func(p *Process) int {
		p.Out.Write([]byte("hello\n"))
		return 3
	}})
	s.AddImage(&runtimeapi.Image{Id: "sha256:1", RepoTags: []string{"busybox:1"}})
	c := runtimeOf(t, s)
	logs := t.TempDir()
	pod := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p"}, LogDirectory: logs}
	sandbox, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	created, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "busybox:1"}, LogPath: "c.log",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if state := s.Container("c").State; state != runtimeapi.ContainerState_CONTAINER_CREATED {
		t.Errorf("state %v", state)
	}
	if _, err := c.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: created.ContainerId}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: created.ContainerId, Timeout: 60}); err != nil {
		t.Fatal(err)
	}
	if st := s.Container("c"); st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("status %v", st)
	}
	log, err := os.ReadFile(filepath.Join(logs, "c.log"))
	if err != nil || !strings.HasSuffix(string(log), " stdout F hello\n") {
		t.Errorf("log %q, %v", log, err)
	}
	if _, err := c.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.PodSandboxId}); err != nil {
		t.Fatal(err)
	}
	if s.Pods() != 0 || s.Container("c") != nil {
		t.Error("the pod is left")
	}
	if got := len(s.Requests("CreateContainer")); got != 1 {
		t.Errorf("%d requests are remembered, want 1", got)
	}
}

func TestFailEndsWithNil(t *testing.T) {
	s := Start(t, Options{})
	c := runtimeOf(t, s)
	s.Fail("ListPodSandbox", status.Error(codes.Aborted, "boom"))
	if _, err := c.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{}); status.Code(err) != codes.Aborted {
		t.Errorf("error is %v", err)
	}
	s.Fail("ListPodSandbox", nil)
	if _, err := c.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{}); err != nil {
		t.Error(err)
	}
}
