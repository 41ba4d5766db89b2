package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (e *env) startPod() (id string, pid int) {
	e.t.Helper()
	e.next++
	id = fmt.Sprintf("pod%d", e.next)
	started, err := e.client.StartPodInit(e.ctx(), PodInitRequest{
		ID: id, UTS: "/proc/self/ns/uts", IPC: "/proc/self/ns/ipc", Net: "/proc/self/ns/net",
		CgroupsPath: group + "/" + id,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return id, started.Pid
}

func TestPodInit(t *testing.T) {
	e := newEnv(t)
	id, pid := e.startPod()
	proc := fmt.Sprintf("/proc/%d", pid)
	status, _ := os.ReadFile(proc + "/status")
	for _, want := range []string{"Name:\tberth-pod\n", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Threads:\t1\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	if entries, err := os.ReadDir(proc + "/root"); err != nil || len(entries) != 0 {
		t.Errorf("root shows %v, %v", entries, err)
	}
	if mounts, _ := os.ReadFile(proc + "/mounts"); strings.Count(string(mounts), "\n") != 1 {
		t.Errorf("mounts:\n%s", mounts)
	}
	if fds, err := os.ReadDir(proc + "/fd"); err != nil || len(fds) != 0 {
		t.Errorf("descriptors %v, %v", fds, err)
	}
	if got := cgroupFile(t, id, "pids", "pids.current", "pids.current"); got != "1" {
		t.Errorf("processes in its cgroup: %s", got)
	}
	// A container of the pod: its orphans are reaped, for which it waits, and it cannot end
	// init.
	r := e.start(`(sleep 0.1 &); kill -TERM 1; kill -KILL 1
		while case "$(ps -o stat,comm)" in *Z*|*sleep*) ;; *) false;; esac; do sleep 0.02; done; ps; exit 3`, func(r *StartRequest) {
		for i, ns := range r.Spec.Linux.Namespaces {
			if ns.Type == specs.PIDNamespace {
				r.Spec.Linux.Namespaces[i].Path = proc + "/ns/pid"
			}
		}
	})
	if x := e.waitExit(r.ID); x.Code != 3 {
		t.Errorf("%s", dump(x))
	}
	if ps := logText(t, r.LogPath); !strings.Contains(ps, "berth-pod") && !strings.Contains(ps, "pod-init") || strings.Contains(ps, " Z ") {
		t.Errorf("ps:\n%s", ps)
	}
	if err := e.client.Delete(e.ctx(), r.ID); err != nil {
		t.Error(err)
	}
	if err := e.client.Signal(e.ctx(), id, syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if x := e.waitExit(id); x.Code != 0 {
		t.Errorf("%s", dump(x))
	}
	if err := e.client.Delete(e.ctx(), id); err != nil {
		t.Fatal(err)
	}
	e.checkNothingLeft(id)
}

func TestPodInitSurvivesMonitor(t *testing.T) {
	e := newEnv(t)
	id, _ := e.startPod()
	e.killMonitor()
	if err := e.client.Signal(e.ctx(), id, syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	e.waitExit(id)
}

func TestPodInitErrors(t *testing.T) {
	e := newEnv(t)
	for name, r := range map[string]PodInitRequest{
		"missing namespace": {ID: "x", IPC: "/nonexistent", CgroupsPath: group + "/x"},
		"not a namespace":   {ID: "x", IPC: "/etc/passwd", CgroupsPath: group + "/x"},
	} {
		if _, err := e.client.StartPodInit(e.ctx(), r); err == nil {
			t.Errorf("%s: no error", name)
		}
		e.checkNothingLeft("x")
	}
}

// What the process costs: the pages that are its own.
func TestPodInitMemory(t *testing.T) {
	e := newEnv(t)
	_, pid := e.startPod()
	// It says that it is ready just before it gives its memory back.
	eventually(t, func() error {
		data, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "smaps_rollup"))
		if err != nil {
			return err
		}
		var private int
		for line := range strings.Lines(string(data)) {
			var n int
			if _, err := fmt.Sscanf(line, "Private_Dirty: %d kB", &n); err == nil {
				private = n
			}
		}
		if private == 0 || private > 8 {
			return fmt.Errorf("%d KiB of its own:\n%s", private, data)
		}
		return nil
	})
}
