package monitor

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// withoutPIDNamespace makes a container run in the node's.
func withoutPIDNamespace(r *StartRequest) {
	var kept []specs.LinuxNamespace
	for _, ns := range r.Spec.Linux.Namespaces {
		if ns.Type != specs.PIDNamespace {
			kept = append(kept, ns)
		}
	}
	r.Spec.Linux.Namespaces = kept
}

// children returns the states of the monitor's children.
func (e *env) children() []string {
	e.t.Helper()
	pid := e.pid()
	var all []string
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for _, child := range strings.Fields(string(data)) {
			stat, err := os.ReadFile("/proc/" + child + "/stat")
			if err == nil {
				all = append(all, child+string(stat[strings.LastIndexByte(string(stat), ')')+1:][:2]))
			}
		}
	}
	return all
}

// Processes whose parent ends become the monitor's children and are reaped, also
// while others start.
func TestOrphans(t *testing.T) {
	e := newEnv(t)
	r := e.start("i=0; while [ $i -lt 30 ]; do (sleep 0.0$i & ); i=$((i+1)); done; echo done; exec sleep 1000", withoutPIDNamespace)
	for range 20 {
		e.exec(r.ID, "", "sh", "-c", "(sleep 0.01 &)")
	}
	e.waitLog(r.LogPath, "done\n")
	eventually(t, func() error {
		if all := e.children(); len(all) != 1 {
			return fmt.Errorf("children %q", all)
		}
		return nil
	})
}

// Deleting ends what is left in the cgroup after the first process has ended.
func TestLeftovers(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000 & exit 4", withoutPIDNamespace)
	if x := e.waitExit(r.ID); x.Code != 4 {
		t.Errorf("%s", dump(x))
	}
	eventually(t, func() error {
		if all := e.children(); len(all) != 1 {
			return fmt.Errorf("children %q", all)
		}
		return nil
	})
	if err := e.client.Delete(e.ctx(), r.ID); err != nil {
		t.Fatal(err)
	}
	e.checkNothingLeft(r.ID)
	eventually(t, func() error {
		if all := e.children(); len(all) != 0 {
			return fmt.Errorf("children %q", all)
		}
		return nil
	})
}

// A delete that meets a start under way ends it; nothing is left.
func TestDeleteCancelsStart(t *testing.T) {
	e := newEnv(t)
	r := e.request("sleep 1000")
	for range 30 {
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			// An error says that it was cancelled.
			_, _ = e.client.Start(e.ctx(), r)
		}()
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			t.Fatal(err)
		}
		e.checkNothingLeft(r.ID)
	}
	eventually(t, func() error {
		if all := e.children(); len(all) != 0 {
			return fmt.Errorf("children %q", all)
		}
		return nil
	})
}
