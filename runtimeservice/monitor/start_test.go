package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestExitCodes(t *testing.T) {
	e := newEnv(t)
	for script, want := range map[string]int{
		"exit 0": 0, "exit 3": 3, "kill -9 $$; sleep 1": 0, "exit 255": 255,
	} {
		r := e.start(script)
		if script == "kill -9 $$; sleep 1" {
			// Process 1 is immune to its own SIGKILL; this one comes from outside.
			if err := e.client.Signal(e.ctx(), r.ID, syscall.SIGKILL, false); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
			if x := e.waitExit(r.ID); x.Code != 137 && x.Code != 0 {
				t.Errorf("%s: %s", script, dump(x))
			}
			continue
		}
		if x := e.waitExit(r.ID); x.Code != want || x.Unknown || x.OOMKilled || x.ExitedAt.IsZero() {
			t.Errorf("%s: %s", script, dump(x))
		}
	}
}

func TestOutput(t *testing.T) {
	e := newEnv(t)
	r := e.start("echo out; echo err >&2; printf tail")
	e.waitExit(r.ID)
	data, err := os.ReadFile(r.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{" stdout F out\n", " stderr F err\n", " stdout F tail\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("log lacks %q:\n%s", want, data)
		}
	}
}

func TestSignalUpdateList(t *testing.T) {
	e := newEnv(t)
	r := e.start("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
	e.waitLog(r.LogPath, "ready\n")
	limit := int64(64 << 20)
	pids := int64(77)
	if err := e.client.Update(e.ctx(), r.ID, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids},
	}); err != nil {
		t.Fatal(err)
	}
	if got := cgroupFile(t, r.ID, "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(limit) {
		t.Errorf("memory limit %s", got)
	}
	if got := cgroupFile(t, r.ID, "pids", "pids.max", "pids.max"); got != "77" {
		t.Errorf("pids limit %s", got)
	}
	all, err := e.client.List(e.ctx())
	if err != nil || len(all) != 1 || all[0].ID != r.ID || all[0].Pid == 0 || all[0].Exit != nil {
		t.Fatalf("list: %s, %v", dump(all), err)
	}
	if err := e.client.Signal(e.ctx(), r.ID, syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if x := e.waitExit(r.ID); x.Code != 5 {
		t.Errorf("exit %s", dump(x))
	}
	if err := e.client.Signal(e.ctx(), r.ID, syscall.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("signal to an exited container: %v", err)
	}
	if err := e.client.Update(e.ctx(), r.ID, &specs.LinuxResources{}); !errdefs.IsNotFound(err) {
		t.Errorf("update of an exited container: %v", err)
	}
	for range 2 {
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
	if all, _ := e.client.List(e.ctx()); len(all) != 0 {
		t.Errorf("list after delete: %s", dump(all))
	}
	e.checkNothingLeft(r.ID)
}

// cgroupFile reads a file of a container's cgroup on v1 or v2.
func cgroupFile(t *testing.T, id, controller, v1, v2 string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, group, id, v1))
	if err != nil {
		data, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", group, id, v2))
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// checkNothingLeft looks for what a deleted container could leave.
func (e *env) checkNothingLeft(id string) {
	e.t.Helper()
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + group + "/" + id)
	if len(roots) > 0 {
		e.t.Errorf("cgroups left: %v", roots)
	}
	for _, path := range []string{"state/" + id, "containers/" + id + ".json"} {
		if _, err := os.Lstat(filepath.Join(e.dir, path)); !errors.Is(err, os.ErrNotExist) {
			e.t.Errorf("%s left: %v", path, err)
		}
	}
}

func TestDeleteRunning(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000 & sleep 1000")
	if err := e.client.Delete(e.ctx(), r.ID); err != nil {
		t.Fatal(err)
	}
	e.checkNothingLeft(r.ID)
}

func TestCommandErrors(t *testing.T) {
	e := newEnv(t)
	for name, edit := range map[string]func(*StartRequest){
		"/bin/nope": func(r *StartRequest) { r.Spec.Process.Args = []string{"/bin/nope"} },
		"nope":      func(r *StartRequest) { r.Spec.Process.Args = []string{"nope"} },
		"/etc":      func(r *StartRequest) { r.Spec.Process.Args = []string{"/etc"} },
		"/bin/busybox/x": func(r *StartRequest) {
			r.Spec.Process.Args, r.Spec.Process.Cwd = []string{"true"}, "/bin/busybox/x"
		},
		"/bin/busybox": func(r *StartRequest) {
			r.Spec.Process.Args, r.Spec.Process.Cwd = []string{"true"}, "/bin/busybox"
		},
		"/plain": func(r *StartRequest) {
			r.Spec.Process.Args = []string{"/plain"}
			os.WriteFile(filepath.Join(r.Spec.Root.Path, "plain"), []byte("x"), 0o644)
		},
	} {
		r := e.request("", edit)
		_, err := e.client.Start(e.ctx(), r)
		if !errors.Is(err, ErrCommand) || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		e.checkNothingLeft(r.ID)
	}
	if all, _ := e.client.List(e.ctx()); len(all) != 0 {
		t.Errorf("list: %s", dump(all))
	}
}

func TestBadRequests(t *testing.T) {
	e := newEnv(t)
	for name, edit := range map[string]func(*StartRequest){
		"no spec":       func(r *StartRequest) { r.Spec = nil },
		"no command":    func(r *StartRequest) { r.Spec.Process.Args = nil },
		"no cgroup":     func(r *StartRequest) { r.Spec.Linux.CgroupsPath = "" },
		"root cgroup":   func(r *StartRequest) { r.Spec.Linux.CgroupsPath = "/x/.." },
		"relative root": func(r *StartRequest) { r.Spec.Root.Path = "rootfs" },
		"ID":            func(r *StartRequest) { r.ID = "../x" },
		"rlimit":        func(r *StartRequest) { r.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
	} {
		if _, err := e.client.Start(e.ctx(), e.request("true", edit)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	link := e.request("true")
	if err := os.Symlink("/etc/passwd", link.LogPath); err != nil {
		t.Fatal(err)
	}
	if _, err := e.client.Start(e.ctx(), link); err == nil {
		t.Error("a log that is a symbolic link was opened")
	}
	e.checkNothingLeft(link.ID)
}

func TestStartJoins(t *testing.T) {
	e := newEnv(t)
	r := e.request("sleep 1000")
	var wg sync.WaitGroup
	pids := make([]int, 8)
	for i := range pids {
		wg.Add(1)
		go func() {
			defer wg.Done()
			started, err := e.client.Start(e.ctx(), r)
			if err != nil {
				t.Error(err)
			}
			pids[i] = started.Pid
		}()
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] || pid == 0 {
			t.Fatalf("pids %v", pids)
		}
	}
}

func TestParallelStarts(t *testing.T) {
	e := newEnv(t)
	var wg sync.WaitGroup
	for i := range 12 {
		r := e.request(fmt.Sprintf("echo %d; exit %d", i, i))
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := e.client.Start(e.ctx(), r); err != nil {
				t.Error(err)
				return
			}
			if x := e.waitExit(r.ID); x.Code != i {
				t.Errorf("%d: %s", i, dump(x))
			}
			if got := logText(t, r.LogPath); got != fmt.Sprintf("%d\n", i) {
				t.Errorf("%d: log %q", i, got)
			}
			if err := e.client.Delete(e.ctx(), r.ID); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
}

func TestOOM(t *testing.T) {
	e := newEnv(t)
	limit := int64(24 << 20)
	r := e.start("x=$(yes | head -c 100000000); echo survived", func(r *StartRequest) {
		r.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	})
	if x := e.waitExit(r.ID); !x.OOMKilled {
		t.Errorf("%s, log %q", dump(x), logText(t, r.LogPath))
	}
}
