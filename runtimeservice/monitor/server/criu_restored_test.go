package server

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// stoppedEnv has the test program stop itself, as CRIU leaves what it restores, in place of
// running tests: with no_new_privs in its first thread alone.
const stoppedEnv = "BERTH_TEST_STOPPED"

// The only place that is known to run in the first thread.
func init() {
	if os.Getenv(stoppedEnv) == "" {
		return
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err == nil {
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
	os.Exit(1)
}

// stoppedProcess starts such a process.
func stoppedProcess(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), stoppedEnv+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it is not stopped: %v, %v", status, err)
	}
	return cmd.Process.Pid
}

func TestRestoredProcessesAreWhatWasAskedFor(t *testing.T) {
	var capabilities []string
	for _, c := range capability.ListKnown() {
		capabilities = append(capabilities, "CAP_"+strings.ToUpper(c.String()))
	}
	pid := stoppedProcess(t)
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		says   string // empty if it is as it has to be
	}{
		"as asked for":      {func(*specs.Spec) {}, ""},
		"one thread is not": {func(s *specs.Spec) { s.Process.NoNewPrivileges = true }, "NoNewPrivs"},
		"capabilities":      {func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_KILL"} }, "has capabilities"},
		"seccomp":           {func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} }, "Seccomp"},
		"the node's namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		}, "mnt namespace"},
		"another namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/self/ns/ipc"}}
		}, "net namespace"},
	} {
		spec := &specs.Spec{
			Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}},
			Linux:   &specs.Linux{},
		}
		test.change(spec)
		err := restored{spec: spec, init: pid}.checkProcess(pid)
		switch {
		case test.says == "" && err != nil:
			t.Errorf("%s: error %v", name, err)
		case test.says != "" && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), test.says)):
			t.Errorf("%s: error %v, want one of %q", name, err, test.says)
		}
	}
	// One that runs could change what was looked at.
	if err := (restored{spec: &specs.Spec{}}).checkProcess(os.Getpid()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("one that runs: error %v", err)
	}
}
