package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
)

func podConfigOf(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "shop", Uid: "u-1"}}
}

// A call is listed with what it is about as long as it runs, and what it reports
// from within is listed with it.
func TestCallsAreOperations(t *testing.T) {
	var registry operation.Registry
	f := serve(t, func(o *Options) { o.Operations = &registry })
	inside, goOn := make(chan struct{}), make(chan struct{})
	f.runtime.runPodSandbox = func(ctx context.Context, _ *runtimeapi.PodSandboxConfig) (string, error) {
		ctx, end := operation.Stage(ctx, "network")
		defer end(nil)
		defer operation.Wait(ctx, func() string { return "the plugin" })()
		close(inside)
		<-goOn
		return sandboxID, nil
	}
	answered := make(chan error, 1)
	go func() {
		_, err := f.rpc().RunPodSandbox(context.Background(), &runtimeapi.RunPodSandboxRequest{Config: podConfigOf("web")})
		answered <- err
	}()
	<-inside
	all := registry.Running()
	if len(all) != 1 || all[0].Method != "RunPodSandbox" || all[0].Standing ||
		all[0].Subject != (operation.Subject{Namespace: "shop", Pod: "web", UID: "u-1"}) ||
		len(all[0].Steps) != 1 || all[0].Steps[0].Stage != "network" || all[0].Steps[0].WaitsFor != "the plugin" {
		t.Errorf("operations: %+v", all)
	}
	close(goOn)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the call is listed no more", func() bool { return len(registry.Running()) == 0 })
}

// A stream of events lasts by its nature.
func TestStreamsAreStanding(t *testing.T) {
	var registry operation.Registry
	f := serve(t, func(o *Options) { o.Operations = &registry })
	f.runtime.streamEvents = func(ctx context.Context, _ func(*runtimeapi.ContainerEventResponse) error) error {
		<-ctx.Done()
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := f.rpc().GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream is listed", func() bool {
		all := registry.Running()
		return len(all) == 1 && all[0].Method == "GetContainerEvents" && all[0].Standing
	})
}

// auditLines are the lines of CRI calls in a JSON log.
func auditLines(t *testing.T, log string) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(log) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if fields["msg"] == "CRI call" {
			lines = append(lines, fields)
		}
	}
	return lines
}

// Every call that changes something has its line: what it was about, who asked,
// what became of it, and nothing secret.
func TestAudit(t *testing.T) {
	log := &syncBuffer{}
	f := serve(t, func(o *Options) { o.Logger = slog.New(slog.NewJSONHandler(log, nil)) })
	ctx := t.Context()
	f.runtime.runPodSandbox = func(ctx context.Context, _ *runtimeapi.PodSandboxConfig) (string, error) {
		// The services know more than the request says.
		operation.About(ctx, func(s *operation.Subject) { s.SandboxID = sandboxID })
		return "", errOops
	}
	const secret = "hunter2"
	_, _ = f.rpc().RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfigOf("web")})
	_, _ = f.rpc().CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandboxID, SandboxConfig: podConfigOf("web"),
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "nginx"}, Image: &runtimeapi.ImageSpec{Image: "nginx:1"},
			Envs: []*runtimeapi.KeyValue{{Key: "PASSWORD", Value: []byte(secret)}}, Args: []string{"--password=" + secret},
		},
	})
	_, _ = f.imageRPC().PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: "nginx:1"}, SandboxConfig: podConfigOf("web"),
		Auth: &runtimeapi.AuthConfig{Username: "u", Password: secret, Auth: secret, IdentityToken: secret, RegistryToken: secret},
	})
	_, _ = f.rpc().ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: containerID, Cmd: []string{"login", secret}})
	_, _ = f.rpc().ListContainers(ctx, &runtimeapi.ListContainersRequest{})

	lines := auditLines(t, log.String())
	want := []map[string]any{
		{"method": "RunPodSandbox", "level": "WARN", "namespace": "shop", "pod": "web", "uid": "u-1", "sandbox_id": sandboxID, "outcome": "Internal", "error": "oops"},
		{"method": "CreateContainer", "level": "INFO", "namespace": "shop", "pod": "web", "uid": "u-1", "sandbox_id": sandboxID,
			"container": "nginx", "container_id": containerID, "image": "nginx:1", "outcome": "OK"},
		{"method": "PullImage", "level": "INFO", "namespace": "shop", "pod": "web", "uid": "u-1", "image": "nginx:1", "image_id": imageID, "outcome": "OK"},
		{"method": "ExecSync", "level": "INFO", "container_id": containerID, "outcome": "OK"},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), log)
	}
	for i, line := range lines {
		for key, value := range want[i] {
			if line[key] != value {
				t.Errorf("line of %s: %s is %v, want %v", want[i]["method"], key, line[key], value)
			}
		}
		if agent, _ := line["client"].(string); !strings.HasPrefix(agent, "grpc-go/") {
			t.Errorf("line of %s: client is %v", want[i]["method"], line["client"])
		}
		if _, ok := line["duration"].(float64); !ok {
			t.Errorf("line of %s: duration is %v", want[i]["method"], line["duration"])
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("a secret is in the log:\n%s", log)
	}
}

// A pull for a pod is told to whom keeps the pod's start record, a failed one with its
// error; one for nobody is not.
func TestPullsAreTold(t *testing.T) {
	var told []string
	f := serve(t, func(o *Options) {
		o.ImagePulled = func(pod *runtimeapi.PodSandboxConfig, image string, _ time.Time, _ time.Duration, failure error) {
			told = append(told, fmt.Sprint(pod.GetMetadata().GetName(), " ", image, " ", failure))
		}
	})
	pull := func(pod *runtimeapi.PodSandboxConfig) {
		_, _ = f.imageRPC().PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "nginx:1"}, SandboxConfig: pod})
	}
	pull(podConfigOf("web"))
	pull(nil)
	f.images.err = errOops
	pull(podConfigOf("web"))
	if len(told) != 2 || told[0] != "web nginx:1 <nil>" || told[1] != "web nginx:1 "+errOops.Error() {
		t.Errorf("told %q", told)
	}
}
