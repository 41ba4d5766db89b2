package ociruntime

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// program makes a runtime of a shell script, which has $command, $log, $pidfile and $last,
// the last argument, and writes its arguments to $dir/args.
func program(t *testing.T, script string) *Runtime {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "fakert")
	text := `#!/bin/sh
dir=` + dir + `
echo "$@" >> $dir/args
while [ $# -gt 0 ]; do
  case $1 in
  --log) log=$2; shift ;;
  --root|--log-format|--bundle|--console-socket|--process|--resources|--cgroup) shift ;;
  --pid-file) pidfile=$2; shift ;;
  create|start|exec|kill|update|delete) command=$1 ;;
  esac
  last=$1; shift
done
` + script + "\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return &Runtime{Path: path, Args: []string{"--platform=kvm"}, Root: filepath.Join(dir, "root"), Bundles: filepath.Join(dir, "bundles")}
}

func testSpec() *specs.Spec {
	return &specs.Spec{Version: "1.0.2", Process: &specs.Process{Args: []string{"/bin/no"}, Cwd: "/work"}}
}

func TestLife(t *testing.T) {
	r := program(t, `
case $command in
create) test -s config.json || exit 1; mkdir -p $dir/root/$last; echo 4242 > $pidfile ;;
exec) echo 4343 > $pidfile ;;
esac`)
	r.SystemdCgroup = true
	ctx := t.Context()
	if pid, err := r.Create(ctx, "c1", testSpec(), Streams{Console: "/run/sock"}); err != nil || pid != 4242 {
		t.Fatalf("create: %d, %v", pid, err)
	}
	if err := r.Start(ctx, "c1", testSpec().Process); err != nil {
		t.Error(err)
	}
	if pid, err := r.Exec(ctx, "c1", testSpec().Process, "freezer:exec-1", Streams{}); err != nil || pid != 4343 {
		t.Errorf("exec: %d, %v", pid, err)
	}
	if err := r.Kill(ctx, "c1", syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := r.Update(ctx, "c1", &specs.LinuxResources{}); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(r.Bundles, "c1", "*"))
	if err != nil || len(left) != 2 { // config.json and pid
		t.Errorf("the bundle has %v, %v", left, err)
	}
	for range 2 {
		if told, err := r.Delete(ctx, "c1"); told != nil || err != nil {
			t.Errorf("delete: %v, %v", told, err)
		}
	}
	for _, path := range []string{filepath.Join(r.Bundles, "c1"), filepath.Join(r.Root, "c1")} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	checkArgs(t, r)
}

func checkArgs(t *testing.T, r *Runtime) {
	t.Helper()
	args, err := os.ReadFile(filepath.Join(filepath.Dir(r.Path), "args"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(args)), "\n")
	for i, want := range []string{
		"--systemd-cgroup create --bundle " + r.bundle("c1") + " --pid-file " + r.bundle("c1") + "/pid --console-socket /run/sock c1",
		"--systemd-cgroup start c1", "--cgroup freezer:exec-1 c1", "kill c1 15", "update --resources ", "delete --force c1",
	} {
		if i >= len(lines) || !strings.Contains(lines[i], want) || !strings.HasPrefix(lines[i], "--platform=kvm --root "+r.Root+" --log ") {
			t.Errorf("call %d lacks %q: %q", i, want, lines)
		}
	}
	if len(lines) != 6 {
		t.Errorf("%d calls: %q", len(lines), lines)
	}
}

func TestErrorsOfTheLog(t *testing.T) {
	for _, test := range []struct {
		name, script, text string
		command, notFound  bool
	}{
		{name: "json", text: "fakert create: it is broken",
			script: `printf '{"level":"error","msg":"before"}\n{"level":"error","msg":"it is broken"}\n{"level":"warning","msg":"after"}\n' > $log; exit 1`},
		{name: "plain log", script: `echo 'cannot do it' > $log; exit 1`, text: "fakert create: cannot do it"},
		{name: "stderr", script: `echo one >&2; echo two >&2; exit 1`, text: "fakert create: two"},
		{name: "silence", script: `exit 7`, text: "fakert create: exit status 7"},
		{name: "runc", command: true, text: `exec: "/bin/no": fakert create`,
			script: `printf '{"level":"error","msg":"runc create failed: unable to start container process: exec: \\"/bin/no\\": stat /bin/no: no such file or directory"}\n' > $log; exit 1`},
		{name: "crun", command: true, text: `exec: "/bin/no": fakert create`,
			script: "printf '{\"level\":\"error\",\"msg\":\"executable file `/bin/no` not found in $PATH: No such file or directory\"}\\n' > $log; exit 1"},
		{name: "not executable", command: true, text: `exec: "/bin/no": fakert create: open executable: Permission denied`,
			script: `printf '{"level":"error","msg":"open executable: Permission denied"}\n' > $log; exit 1`},
		{name: "working directory", command: true, text: `make working directory "/work": fakert create`,
			script: `printf '{"level":"error","msg":"error during container init: mkdir /work: not a directory"}\n' > $log; exit 1`},
		{name: "gone", notFound: true, text: "does not exist", script: `printf '{"level":"error","msg":"container does not exist"}\n' > $log; exit 1`},
		{name: "no PID", script: `echo nothing > $pidfile`, text: "read PID"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := program(t, test.script)
			_, err := r.Create(t.Context(), "c1", testSpec(), Streams{})
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("error is %v", err)
			}
			if got := errors.Is(err, protocol.ErrCommand); got != test.command {
				t.Errorf("the command's fault: %t, %v", got, err)
			}
			if got := errdefs.IsNotFound(err); got != test.notFound {
				t.Errorf("not found: %t, %v", got, err)
			}
		})
	}
}

func TestAProgramThatIsNotThere(t *testing.T) {
	r := program(t, "")
	r.Path += "-gone"
	if _, err := r.Create(t.Context(), "c1", testSpec(), Streams{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("create: %v", err)
	}
	told, err := r.Delete(t.Context(), "c1")
	if told == nil || err != nil {
		t.Errorf("delete: %v, %v", told, err)
	}
	if _, err := os.Stat(r.bundle("c1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the bundle is left: %v", err)
	}
}

// A program that hangs is killed, with what it has started.
func TestAProgramThatHangs(t *testing.T) {
	r := program(t, `sleep 1000 & echo $! > $dir/child; wait`)
	ctx, cancel := context.WithCancel(t.Context())
	child := filepath.Join(filepath.Dir(r.Path), "child")
	go func() {
		defer cancel()
		for range 1000 {
			if data, err := os.ReadFile(child); err == nil && len(data) > 1 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if _, err := r.Create(ctx, "c1", testSpec(), Streams{}); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	pid, err := readPID(child)
	if err != nil {
		t.Fatal(err)
	}
	for range 6000 {
		if state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d runs on", pid)
}

// What a process inherits is its own OOM score, not that of the caller.
func TestOOMScoreIsInherited(t *testing.T) {
	r := program(t, `until [ $(cat /proc/self/oom_score_adj) = 777 ]; do :; done; echo 4242 > $pidfile`)
	score := 777
	spec := testSpec()
	spec.Process.OOMScoreAdj = &score
	if _, err := r.Create(t.Context(), "c1", spec, Streams{}); err != nil {
		t.Error(err)
	}
	if _, err := r.Exec(t.Context(), "c1", spec.Process, "", Streams{}); err != nil {
		t.Error(err)
	}
}

// A program that is given up while it is being started does not go on in secret: what it makes
// would come after all has been removed.
func TestAProgramThatIsGivenUpAtItsStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		cmd := exec.Command("/bin/sleep", "1000")
		if ended, err := within(ctx, time.Minute, cmd, nil); ended || !errors.Is(err, context.Canceled) {
			t.Fatalf("ended: %v, %v", ended, err)
		}
		if err := syscall.Kill(-cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the program runs: %v", err)
		}
	}
}

func TestATimeIsUp(t *testing.T) {
	r := program(t, `exec sleep 1000`)
	if err := os.MkdirAll(r.bundle("c1"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := r.run(t.Context(), 50*time.Millisecond, "c1", "start", "c1")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "fakert start: no end within 50ms") {
		t.Errorf("error is %v", err)
	}
}
