package pidfd

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func start(t *testing.T, script string) (pid, fd int) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return cmd.Process.Pid, fd
}

func TestReap(t *testing.T) {
	for script, want := range map[string]int{
		"exit 0": 0, "exit 7": 7, "kill -TERM $$": 143, "kill -SEGV $$": 139,
	} {
		_, fd := start(t, script)
		if !Wait(fd, 10_000) {
			t.Fatalf("%s: still runs", script)
		}
		status, ok, err := Reap(fd)
		if err != nil || !ok || Code(status) != want {
			t.Errorf("%s: got %d, %v, %v; want %d", script, Code(status), ok, err, want)
		}
		if _, _, err := Reap(fd); err == nil {
			t.Errorf("%s: reaped twice", script)
		}
	}
}

func TestReapRunning(t *testing.T) {
	_, fd := start(t, "sleep 100")
	if _, ok, err := Reap(fd); ok || err != nil {
		t.Errorf("running process: %v, %v", ok, err)
	}
	if Exited(fd) {
		t.Error("running process counts as exited")
	}
	if err := Signal(fd, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	Wait(fd, 10_000)
	if status, ok, _ := Reap(fd); !ok || Code(status) != 137 {
		t.Errorf("got %d, %v", Code(status), ok)
	}
}

// A grandchild is not ours to wait for, and its parent may be there or not.
func TestStatusOfZombie(t *testing.T) {
	pid, fd := start(t, "exit 9")
	Wait(fd, 10_000)
	status, err := Status(fd, pid)
	if err != nil || Code(status) != 9 {
		t.Errorf("zombie: %d, %v", Code(status), err)
	}
	if _, _, err := Reap(fd); err != nil {
		t.Fatal(err)
	}
	status, err = Status(fd, pid)
	if tells := kernelTells(t); tells && (err != nil || Code(status) != 9) {
		t.Errorf("reaped: %d, %v", Code(status), err)
	} else if !tells && err != ErrUnknown {
		t.Errorf("reaped on an old kernel: %d, %v", Code(status), err)
	}
}

func kernelTells(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	major, _ := strconv.Atoi(parts[0])
	minor, _ := strconv.Atoi(parts[1])
	return major > 6 || major == 6 && minor >= 15
}

func TestStartTime(t *testing.T) {
	pid, _ := start(t, "sleep 100")
	defer syscall.Kill(pid, syscall.SIGKILL)
	a, err := StartTime(pid)
	if err != nil || a == 0 {
		t.Errorf("got %d, %v", a, err)
	}
}
