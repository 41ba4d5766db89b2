package podinit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	if !strings.Contains(string(status), "\nSeccomp:\t2\n") {
		t.Errorf("its system calls are not filtered:\n%s", status)
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
		"a label that no policy has":    {Config{EmptyDir: t.TempDir(), Label: "nosuch_u:nosuch_r:nosuch_t:s0"}, "take SELinux label"},
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

// userNamespace is the path of one with 200000 as its root.
func userNamespace(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	ids := []syscall.SysProcIDMap{{HostID: 200000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid)
}

func TestInitOfAPodWithAUserNamespace(t *testing.T) {
	user := userNamespace(t)
	var placed int
	p, err := Start(Config{
		EmptyDir:   t.TempDir(),
		Namespaces: []string{"/proc/self/ns/ipc"},
		User:       user,
		Place: func(pid int) error {
			placed = pid
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", placed)); placed == p.Pid || !os.IsNotExist(err) {
		t.Errorf("the first process, %d, is there beside %d: %v", placed, p.Pid, err)
	}
	want, err := os.Readlink(user)
	if err != nil {
		t.Fatal(err)
	}
	if got := namespace(t, p.Pid, "user"); got != want {
		t.Errorf("its user namespace is %s, want %s", got, want)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		fmt.Sprintf("NSpid:\t%d\t1", p.Pid), fmt.Sprintf("PPid:\t%d", os.Getpid()),
		"Uid:\t200000\t200000\t200000\t200000", "Gid:\t200000\t200000\t200000\t200000", "Groups:\t ",
		"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(string(status), "\n"+line+"\n") {
			t.Errorf("its status has no line %q:\n%s", line, status)
		}
	}
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", p.Pid)); err != nil || len(entries) != 0 {
		t.Errorf("it sees %v, %v", entries, err)
	}
	// It ends when it is asked to from outside, and is this process's child.
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if state, err := p.Wait(); err != nil || !state.Success() {
		t.Errorf("it ended with %v, %v", state, err)
	}
}

func TestTakeSecond(t *testing.T) {
	for text, want := range map[string]string{
		"": "0 ", "\x0142\n": "42 ", "drop: EPERM\x0142\n": "42 drop: EPERM", "\x0142\nclose: EPERM": "42 close: EPERM",
		"join: EPERM": "0 join: EPERM", "\x0142": "0 \x0142", "\x01x\n": "0 \x01x\n", "\x011\n": "0 \x011\n",
	} {
		second, rest := takeSecond([]byte(text))
		pid := 0
		if second != nil {
			pid = second.Pid
		}
		if got := fmt.Sprintf("%d %s", pid, rest); got != want {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
}
