package monitor

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestUpgrade(t *testing.T) {
	e := newEnv(t)
	const lines = 30000
	writes := e.start(fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; exit 14", lines))
	cat := e.start("while read x; do echo got $x; done; exit 15", func(r *StartRequest) { r.Stdin, r.StdinOnce = true, true })
	tty := e.start("printf half; sleep 1; echo line; sleep 1000", func(r *StartRequest) { r.Spec.Process.Terminal = true })
	podID, podPid := e.startPod()
	in, out, _, ended := e.attach(cat.ID, true)
	io.WriteString(in, "before\n")
	stdin, stdinW, _ := os.Pipe()
	x, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: cat.ID, Process: e.process("sh", "-c", "read x; exit 16"), Stdin: stdin})
	stdin.Close()
	if err != nil {
		t.Fatal(err)
	}
	pid := e.pid()
	for range 3 {
		if err := e.client.Upgrade(e.ctx()); err != nil {
			t.Fatal(err)
		}
		if got := e.pid(); got != pid {
			t.Fatalf("process %d became %d", pid, got)
		}
	}
	io.WriteString(stdinW, "go\n")
	stdinW.Close()
	if exit, err := x.Wait(e.ctx()); err != nil || exit.Code != 16 {
		t.Errorf("exec: %s, %v", dump(exit), err)
	}
	io.WriteString(in, "after\n")
	in.Close()
	if text, _ := io.ReadAll(out); string(text) != "got before\ngot after\n" {
		t.Errorf("attached: %q", text)
	}
	<-ended
	if exit := e.waitExit(writes.ID); exit.Code != 14 || exit.Unknown {
		t.Errorf("%s", dump(exit))
	}
	var want strings.Builder
	for i := range lines {
		fmt.Fprintln(&want, i)
	}
	if got := logText(t, writes.LogPath); got != want.String() {
		t.Errorf("log has %d bytes, want %d", len(got), want.Len())
	}
	if exit := e.waitExit(cat.ID); exit.Code != 15 {
		t.Errorf("%s", dump(exit))
	}
	e.waitLog(tty.LogPath, "halfline\r\n")
	for _, c := range []int{podPid} {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c))
		if !strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", pid)) {
			t.Errorf("status:\n%s", status)
		}
	}
	if err := e.client.Delete(e.ctx(), podID); err != nil {
		t.Error(err)
	}
	log, _ := os.ReadFile(filepath.Join(e.dir, "monitor.log"))
	if len(log) > 0 {
		t.Errorf("monitor.log:\n%s", log)
	}
}

// Requests that meet an upgrade wait for the new program.
func TestUpgradeUnderLoad(t *testing.T) {
	e := newEnv(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		r := e.request("exit 0")
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := e.client.Start(e.ctx(), r); err != nil {
					t.Error(err)
					return
				}
				if err := e.client.Delete(e.ctx(), r.ID); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	pid := e.pid()
	for range 5 {
		time.Sleep(100 * time.Millisecond)
		if err := e.client.Upgrade(e.ctx()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if got := e.pid(); got != pid {
		t.Errorf("process %d became %d", pid, got)
	}
}

func TestUpgradeToNonsense(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	pid := e.pid()
	for _, path := range []string{"/bin/true", "/etc/passwd", "/nonexistent", "/etc"} {
		e.client.options.Binary = path
		if err := e.client.Upgrade(e.ctx()); err == nil {
			t.Errorf("%s: no error", path)
		} else if path != "/nonexistent" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	e.client.options.Binary = binary
	if got := e.pid(); got != pid {
		t.Errorf("process %d became %d", pid, got)
	}
	if _, _, exit := e.exec(r.ID, "", "true"); exit.Code != 0 {
		t.Error(dump(exit))
	}
}
