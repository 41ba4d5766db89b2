package integration

import (
	"bytes"
	"strings"
	"testing"
	"time"

	utilexec "k8s.io/utils/exec"
)

func TestExecSync(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(env("A", "b"))
	stdout, stderr, err := shared.runtime.ExecSync(t.Context(), c.id, []string{"sh", "-c", "echo $A; echo wrong >&2; exit 3"}, time.Minute)
	exit, ok := err.(utilexec.ExitError)
	if !ok || exit.ExitStatus() != 3 {
		t.Errorf("error is %v", err)
	}
	same(t, "stdout", string(stdout), "b\n")
	same(t, "stderr", string(stderr), "wrong\n")
	same(t, "by a prefix of the ID", func() string {
		out, _, err := shared.runtime.ExecSync(t.Context(), c.id[:12], []string{"echo", "found"}, time.Minute)
		if err != nil {
			t.Error(err)
		}
		return string(out)
	}(), "found\n")
}

// After a timeout nothing of the command's processes is left.
func TestExecSyncTimeout(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	_, _, err := shared.runtime.ExecSync(t.Context(), c.id, []string{"sh", "-c", "sleep 4321 & (setsid sleep 4321 &) ; sleep 4321"}, time.Second)
	if err == nil || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("error is %v", err) // the client's own for DeadlineExceeded
	}
	eventually(t, "no process is left", func() bool { return c.sh("ps -o args | grep -c '[s]leep 4321' || true") == "0" })
}

func TestExecSyncErrors(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	write := c.sh("echo '#!/nonexistent' > /tmp/script; chmod +x /tmp/script; echo x > /tmp/data; echo done")
	same(t, "set-up", write, "done")
	for name, argv := range map[string][]string{
		"a command that does not exist": {"no-such-command"},
		"a file that is no program":     {"/tmp/data"},
		"a script without interpreter":  {"/tmp/script"},
		"a directory":                   {"/tmp"},
	} {
		stdout, stderr, err := shared.runtime.ExecSync(t.Context(), c.id, argv, time.Minute)
		if err == nil {
			t.Errorf("%s ran: %q %q", name, stdout, stderr)
			continue
		}
		// The kernel finds out about a missing interpreter when nobody waits for
		// an answer any more: that is told on stderr.
		if !strings.Contains(err.Error()+string(stderr), strings.Fields(argv[0])[0]) {
			t.Errorf("%s: the error does not name it: %v, %q", name, err, stderr)
		}
	}
	_, _, err := shared.runtime.ExecSync(t.Context(), strings.Repeat("0", 64), []string{"true"}, time.Minute)
	wantCode(t, "a container that does not exist", err, notFound)
	done := p.run(command("true"))
	done.wait()
	_, _, err = shared.runtime.ExecSync(t.Context(), done.id, []string{"true"}, time.Minute)
	wantCode(t, "a container that has ended", err, failedPrecondition)
	created := p.create()
	_, _, err = shared.runtime.ExecSync(t.Context(), created.id, []string{"true"}, time.Minute)
	wantCode(t, "a container that was not started", err, failedPrecondition)
}

// Output has a limit, and what is beyond it does not fail the command
// (CVE-2022-1708).
func TestExecSyncOutputIsBounded(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	stdout, _, err := shared.runtime.ExecSync(t.Context(), c.id, []string{"sh", "-c", "yes | head -c 40000000"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(stdout) < 15<<20 || len(stdout) > 16<<20 {
		t.Errorf("%d bytes of output", len(stdout))
	}
	if !bytes.Equal(stdout[:6], []byte("y\ny\ny\n")) {
		t.Errorf("the output begins with %q", stdout[:6])
	}
}

// What a command leaves in the background is not waited for.
func TestExecSyncDoesNotWaitForTheBackground(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	same(t, "output", c.sh("sleep 3000 & echo started"), "started")
}
