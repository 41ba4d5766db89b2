package monitor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// pooled is how many descriptors the monitor may keep for later.
const pooled = 4

// usage is what could leak in the monitor and in the client.
type usage struct {
	monitorFDs, monitorThreads, clientFDs, goroutines, children int
}

func (e *env) usage() usage {
	e.t.Helper()
	pid := e.pid()
	runtime.GC()
	count := func(path string) int {
		entries, err := os.ReadDir(path)
		if err != nil {
			e.t.Fatal(err)
		}
		return len(entries)
	}
	u := usage{
		monitorFDs:     count(fmt.Sprintf("/proc/%d/fd", pid)),
		monitorThreads: count(fmt.Sprintf("/proc/%d/task", pid)),
		clientFDs:      count("/proc/self/fd"),
		goroutines:     runtime.NumGoroutine(),
	}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		u.children += len(strings.Fields(string(data)))
	}
	return u
}

// checkFlat does something often and compares what is in use before and after.
func (e *env) checkFlat(rounds int, f func()) {
	e.t.Helper()
	for range 10 {
		f()
	}
	before := e.usage()
	for range rounds {
		f()
	}
	// Reaping and closing go on for a moment.
	var after usage
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		after = e.usage()
		if after.monitorFDs <= before.monitorFDs+pooled && after.clientFDs <= before.clientFDs &&
			after.goroutines <= before.goroutines && after.children <= before.children {
			break
		}
	}
	e.t.Logf("before %+v, after %d rounds %+v", before, rounds, after)
	if after.monitorFDs > before.monitorFDs+pooled || after.clientFDs > before.clientFDs ||
		after.goroutines > before.goroutines || after.children > before.children {
		e.t.Errorf("before %+v, after %d rounds %+v", before, rounds, after)
	}
	if after.monitorThreads > before.monitorThreads+rounds/2 {
		e.t.Errorf("threads: before %d, after %d", before.monitorThreads, after.monitorThreads)
	}
}

func TestNoLeakOfStarts(t *testing.T) {
	e := newEnv(t)
	r := e.request("echo x; exit 1", func(r *StartRequest) { r.Stdin = true })
	e.checkFlat(100, func() {
		if _, err := e.client.Start(e.ctx(), r); err != nil {
			t.Fatal(err)
		}
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNoLeakOfFailedStarts(t *testing.T) {
	e := newEnv(t)
	r := e.request("", func(r *StartRequest) { r.Spec.Process.Args = []string{"/nope"} })
	e.checkFlat(50, func() {
		if _, err := e.client.Start(e.ctx(), r); !errors.Is(err, ErrCommand) {
			t.Fatal(err)
		}
	})
}

func TestNoLeakOfExecs(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	e.checkFlat(50, func() {
		if _, _, exit := e.exec(r.ID, "", "true"); exit.Code != 0 {
			t.Fatal(dump(exit))
		}
		if _, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: e.process("/nope")}); !errors.Is(err, ErrCommand) {
			t.Fatal(err)
		}
		p := e.process("/nope")
		p.Terminal = true
		if _, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: p}); !errors.Is(err, ErrCommand) {
			t.Fatal(err)
		}
	})
}

func TestNoLeakOfAttaches(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000", func(r *StartRequest) { r.Stdin = true })
	e.checkFlat(50, func() {
		in, out, errw, _ := e.attach(r.ID, true)
		in.Close()
		out.Close()
		errw.Close()
	})
}
