package podinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func namespace(t *testing.T, pid int, kind string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make namespaces and need root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestInitOfAPod(t *testing.T) {
	var placed int
	p, err := Start(Config{
		EmptyDir:   t.TempDir(),
		Namespaces: []string{"/proc/self/ns/ipc", "/proc/self/ns/uts"},
		Place: func(pid int) error {
			placed = pid
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		if state, err := p.Wait(); err != nil || state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("it ended with %v, %v", state, err)
		}
	}()
	if placed != p.Pid {
		t.Errorf("process %d was placed, and %d is the init", placed, p.Pid)
	}
	for _, kind := range []string{"pid", "mnt"} {
		if namespace(t, p.Pid, kind) == namespace(t, os.Getpid(), kind) {
			t.Errorf("it has no %s namespace of its own", kind)
		}
	}
	for _, kind := range []string{"ipc", "uts"} {
		if got, want := namespace(t, p.Pid, kind), namespace(t, os.Getpid(), kind); got != want {
			t.Errorf("its %s namespace is %s, want %s", kind, got, want)
		}
	}
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", p.Pid)); err != nil || len(entries) != 0 {
		t.Errorf("it sees %v, %v", entries, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "\nNSpid:\t"+fmt.Sprint(p.Pid)+"\t1\n") {
		t.Errorf("it is not process 1 of its namespace:\n%s", status)
	}
}

func TestFailedStartLeavesNoProcess(t *testing.T) {
	boom := errors.New("boom")
	var pid int
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"a namespace that is not there": {Config{EmptyDir: t.TempDir(), Namespaces: []string{filepath.Join(t.TempDir(), "none")}}, "no such file"},
		"a file that is no namespace":   {Config{EmptyDir: t.TempDir(), Namespaces: []string{os.Args[0]}}, "init of pod"},
		"a place that is refused": {Config{EmptyDir: t.TempDir(), Place: func(p int) error {
			pid = p
			return boom
		}}, "boom"},
	} {
		p, err := Start(c.config)
		if p != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want an error with %q", name, p, err, c.want)
		}
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d is left: %v", pid, err)
	}
}
