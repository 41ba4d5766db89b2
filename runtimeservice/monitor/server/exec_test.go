package server

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A process that cannot be watched is ended, and leaves no descriptor and no entry: its
// result pipe, which the caller closes, would be closed once more otherwise.
func TestExecThatCannotBeWatched(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(p.wake)
	unix.Close(p.epfd)
	p.epfd = -1
	c := (&Server{poller: p}).newContainer("c")

	before := openFiles(t)
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	e := &execProcess{id: "1", c: c, pidfd: -1, result: -1}
	if _, _, err := e.begin(cmd.Process.Pid, cmd.Process, &stdio{}); err == nil {
		t.Fatal("a process is watched without epoll")
	}
	if err := cmd.Process.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the process was not ended and waited for: %v", err)
	}
	if len(c.execs) != 0 {
		t.Errorf("%d processes are registered, want none", len(c.execs))
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
