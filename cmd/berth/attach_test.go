package main

import (
	"io"
	"strings"
	"testing"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

func TestAttachKnowsWhatRunMade(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	_, args := runArgs(t, "-d", "-it", "--name", "talk", "busybox:1", "greet")
	wantOK(t, s, args...)
	in, typist := io.Pipe()
	inv := begin(t, s, in, "attach", "talk")
	io.WriteString(typist, "Ada\n")
	if code := inv.wait(); code != 0 {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
	if !strings.Contains(inv.out.String(), "hello Ada\n") {
		t.Errorf("output %q", inv.out.String())
	}
}

func TestAttachDetaches(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	_, args := runArgs(t, "-d", "-it", "--name", "talk", "busybox:1", "cat")
	wantOK(t, s, args...)
	in, typist := io.Pipe()
	inv := begin(t, s, in, "attach", "--detach-keys", "ctrl-a,x", "talk")
	io.WriteString(typist, "hi\x01y\n")
	inv.waitFor("hi\x01y\n")
	io.WriteString(typist, "\x01x")
	if code := inv.wait(); code != 0 || !strings.Contains(inv.err.String(), "detached from talk") {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
	if s.Container("talk").ExitCode != 0 || !strings.Contains(wantOK(t, s, "ps"), "talk") {
		t.Error("the container does not run on")
	}
}

func TestAttachEndsWithTheCode(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	_, args := runArgs(t, "-d", "--name", "bg", "busybox:1", "loop")
	wantOK(t, s, args...)
	inv := begin(t, s, nil, "attach", "bg")
	eventually(t, "the call of attach", func() bool { return len(s.Requests("Attach")) == 1 })
	wantOK(t, s, "stop", "bg")
	if code := inv.wait(); code != 7 {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
}

func TestAttachToWhatHasEnded(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	_, args := runArgs(t, "--name", "done", "busybox:1", "echo", "x")
	wantOK(t, s, args...)
	wantFailure(t, s, 1, []string{`attach to "done": container`, "is not running"}, "attach", "done")
	wantFailure(t, s, 1, []string{`detach key "ctrl-?" is neither`}, "attach", "-t", "--detach-keys", "ctrl-?", "box")
}
