package main

import (
	"os"
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCheckpoint(t *testing.T) {
	s := node(t)
	want(t, "checkpoint", wantOK(t, s, "checkpoint", "-t", "90s", "nginx", "/tmp/a.tar"), "")
	req := s.Requests("CheckpointContainer")[0].(*runtimeapi.CheckpointContainerRequest)
	if req.ContainerId == "" || req.Location != "/tmp/a.tar" || req.Timeout != 90 {
		t.Errorf("asked for %v", req)
	}
	want(t, "checkpoint of a pod", wantOK(t, s, "checkpoint", "--pod", "--option", "file-locks=true", "web-0", "/tmp/a"), "")
	pod := s.Requests("CheckpointPod")[0].(*runtimeapi.CheckpointPodRequest)
	if pod.PodSandboxId == "" || pod.OutputPath != "/tmp/a" || len(pod.ContainerIds) == 0 || pod.Options["file-locks"] != "true" {
		t.Errorf("asked for %v", pod)
	}
	wantFailure(t, s, 1, []string{"takes a container and a file"}, "checkpoint", "nginx")
}

func TestRestore(t *testing.T) {
	s := node(t)
	dir := t.TempDir()
	pod, ctr := filepath.Join(dir, "pod.json"), filepath.Join(dir, "ctr.json")
	for file, text := range map[string]string{
		pod: `{"metadata":{"name":"a","uid":"b","namespace":"c"}}`, ctr: `{"metadata":{"name":"main"},"image":{"image":"box"}}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "restore", wantOK(t, s, "restore", "/tmp/a", pod, ctr), "restored\nrestored-main\n")
	req := s.Requests("RestorePod")[0].(*runtimeapi.RestorePodRequest)
	if req.CheckpointPath != "/tmp/a" || req.Config.Metadata.Name != "a" || req.ContainerConfigs[0].Image.Image != "box" {
		t.Errorf("asked for %v", req)
	}
	wantFailure(t, s, 1, []string{"read " + pod}, "restore", "/tmp/a", pod, writeBad(t, pod))
}

// writeBad makes a file one that cannot be read.
func writeBad(t *testing.T, file string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
