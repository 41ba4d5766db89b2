package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

// loggedNode has a pod whose container "app" was restarted once; both runs have
// a log.
func loggedNode(t *testing.T) (s *fakecri.Server, path string) {
	t.Helper()
	s = fakecri.Start(t, fakecri.Options{})
	dir := t.TempDir()
	s.AddPod(&runtimeapi.PodSandboxStatus{Id: webPodID, Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod"}})
	for attempt, id := range []string{oldWebID, webID} {
		path = filepath.Join(dir, fmt.Sprintf("%d.log", attempt))
		state := runtimeapi.ContainerState_CONTAINER_EXITED
		if id == webID {
			state = runtimeapi.ContainerState_CONTAINER_RUNNING
		}
		s.AddContainer(webPodID, &runtimeapi.ContainerStatus{
			Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: "app", Attempt: uint32(attempt)},
			CreatedAt: int64(attempt + 1), State: state, LogPath: path,
		})
		var b strings.Builder
		for i := range 5 {
			stamp := time.Date(2026, 1, 2, 3, i, 0, 5, time.UTC).Format(time.RFC3339Nano)
			fmt.Fprintf(&b, "%s stdout P run %d, \n%s stdout F line %d\n", stamp, attempt, stamp, i)
		}
		b.WriteString("2026-01-02T03:09:00Z stderr F oops\n")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s, path
}

func TestLogs(t *testing.T) {
	s, _ := loggedNode(t)
	code, out, errOut := berth(t, s, "logs", "app")
	if code != 0 || errOut != "oops\n" {
		t.Errorf("exit code %d, errors %q", code, errOut)
	}
	want(t, "logs", out, "run 1, line 0\nrun 1, line 1\nrun 1, line 2\nrun 1, line 3\nrun 1, line 4\n")
	want(t, "logs --tail", wantOK(t, s, "logs", "--tail", "2", "app"), "run 1, line 4\n")
	want(t, "logs --tail 0", wantOK(t, s, "logs", "--tail", "0", "app"), "")
	want(t, "logs -t", wantOK(t, s, "logs", "-t", "--tail", "2", "app"), "2026-01-02T03:04:00.000000005Z run 1, line 4\n")
	want(t, "logs --since --until", wantOK(t, s, "logs", "--since", "2026-01-02T03:02:00Z", "--until", "2026-01-02T03:03:30Z", "app"),
		"run 1, line 2\nrun 1, line 3\n")
	want(t, "logs --since a moment ago", wantOK(t, s, "logs", "--since", "1ns", "app"), "")
	want(t, "logs -p", wantOK(t, s, "logs", "-p", "--tail", "2", "app"), "run 0, line 4\n")
	want(t, "logs of an ID", wantOK(t, s, "logs", "--tail", "2", oldWebID), "run 0, line 4\n")
}

func TestLogErrors(t *testing.T) {
	s, path := loggedNode(t)
	wantFailure(t, s, 1, []string{`container "app" has no previous run`, "`berth ps -a`"}, "logs", "-p", oldWebID)
	wantFailure(t, s, 1, []string{`--since "noon" is neither a duration`}, "logs", "--since", "noon", "app")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, s, 1, []string{"open log: open " + path, "hint: the file was removed"}, "logs", "app")
	s.AddContainer(webPodID, &runtimeapi.ContainerStatus{Id: sideID, Metadata: &runtimeapi.ContainerMetadata{Name: "mute"}})
	wantFailure(t, s, 1, []string{`container "mute" keeps no log`}, "logs", "mute")
}

func TestLogsFollowToTheEnd(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	_, args := runArgs(t, "-d", "--name", "bg", "busybox:1", "loop")
	wantOK(t, s, args...)
	inv := begin(t, s, nil, "logs", "-f", "bg")
	inv.waitFor("looping\n")
	wantOK(t, s, "stop", "bg")
	if code := inv.wait(); code != 0 {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
	want(t, "logs -f", inv.out.String(), "looping\nasked to end\n")
}
