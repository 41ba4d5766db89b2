package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

func TestStop(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	want(t, "stop", wantOK(t, s, "stop", "-t", "90s", "box"), "box\n")
	if req := s.Requests("StopContainer")[0].(*runtimeapi.StopContainerRequest); req.ContainerId != webID || req.Timeout != 90 {
		t.Errorf("asked for %v", req)
	}
	if n := len(s.Requests("StopPodSandbox")); n != 0 {
		t.Errorf("stopping a container stopped %d pods", n)
	}
	want(t, "stop a pod", wantOK(t, s, "stop", "pod"), "pod\n")
	if reqs := s.Requests("StopContainer"); len(reqs) != 2 || reqs[1].(*runtimeapi.StopContainerRequest).Timeout != 10 {
		t.Errorf("stopping a pod asked its containers %v", reqs)
	}
	want(t, "pods", wantOK(t, s, "pods", "-q", "--state", "notready"), webPodID+"\n")
}

func TestStopGoesOnAfterAnError(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	code, out, errOut := berth(t, s, "stop", "nope", "box")
	if code != 1 || out != "box\n" || !strings.Contains(errOut, `no container or pod "nope"`) {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errOut)
	}
}

func TestRm(t *testing.T) {
	s := node(t)
	wantFailure(t, s, 1, []string{`container "nginx" is running`, "hint: stop it first, or remove it with -f"}, "rm", "nginx")
	want(t, "rm -f", wantOK(t, s, "rm", "-f", "nginx"), "nginx\n")
	want(t, "rm -a", sorted(wantOK(t, s, "rm", "-a")), sorted(lines([]string{oldWebID, dbSideID})))
	want(t, "ps", wantOK(t, s, "ps", "-aq"), sideID+"\n")
	want(t, "rm -af", wantOK(t, s, "rm", "-af"), sideID+"\n")
}

func TestRmp(t *testing.T) {
	s := node(t)
	wantFailure(t, s, 1, []string{`pod "web-0" is ready`, "remove it with -f"}, "rmp", "web-0")
	want(t, "rmp -a", wantOK(t, s, "rmp", "-a"), dbPodID+"\n")
	want(t, "rmp -f", wantOK(t, s, "rmp", "-f", "web-0"), "web-0\n")
	if s.Pods() != 0 {
		t.Errorf("%d pods left", s.Pods())
	}
	if len(s.Requests("StopPodSandbox")) != 2 {
		t.Error("a pod was removed without being stopped")
	}
}

// The labels of a pod are its user's: they must not lead berth to remove files
// that it did not make.
func TestRmpRemovesNoFolderThatRunDidNotMake(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{})
	root := t.TempDir()
	for name, keep := range map[string]bool{"victim": true, "pod_uid1": false} {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"container.log", "container.log.1", "other"} {
			if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.AddPod(&runtimeapi.PodSandboxStatus{
			Id: webPodID, Labels: map[string]string{labelRun: "true"}, State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY,
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Uid: "uid1"},
		})
		s.AddContainer(webPodID, &runtimeapi.ContainerStatus{Id: webID, LogPath: filepath.Join(dir, "container.log")})
		code, _, errOut := berth(t, s, "rmp", "pod")
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		if keep && (code != 0 || len(left) != 3) {
			t.Errorf("%s: exit code %d, left %v", name, code, left)
		}
		if !keep && (code != 1 || len(left) != 1 || filepath.Base(left[0]) != "other" || !strings.Contains(errOut, "remove logs")) {
			t.Errorf("%s: exit code %d, errors %q, left %v", name, code, errOut, left)
		}
	}
}

func TestRmi(t *testing.T) {
	s := node(t)
	want(t, "rmi --prune", wantOK(t, s, "rmi", "--prune"), "")
	wantFailure(t, s, 1, []string{"--all and the names of images exclude each other"}, "rmi", "-a", "x")
	want(t, "rmi", wantOK(t, s, "rmi", "registry.local:5000/nginx:stable"), "registry.local:5000/nginx:stable\n")
	if req := s.Requests("RemoveImage")[0].(*runtimeapi.RemoveImageRequest); req.Image.Image != imageID {
		t.Errorf("removed %v", req)
	}
	unused := "sha256:" + strings.Repeat("3", 64)
	s.AddImage(&runtimeapi.Image{Id: unused})
	want(t, "rmi --prune", wantOK(t, s, "rmi", "--prune"), unused+"\n")
	want(t, "images", wantOK(t, s, "images", "-q"), "sha256:beef456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n")
}
