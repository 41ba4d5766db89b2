package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// These tests need root, /bin/busybox as a static program, and cgroups. They
// run the real monitor.

var binary string

// buildFlags are those of the Makefile.
var buildFlags = []string{
	"-tags", "osusergo netgo seccomp",
	"-ldflags", "-linkmode external -extldflags -static -X main.version=test",
}

// group is the cgroup of the test run; containers get one below it.
var group = fmt.Sprintf("/berth-monitor-test-%d", os.Getpid())

func TestMain(m *testing.M) {
	if isFakeCRIU() {
		if err := runFakeCRIU(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of monitor need root")
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "berth-monitor-test")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "berth-monitor")
	args := append([]string{"build"}, buildFlags...)
	build := exec.Command("go", append(args, "-o", binary, "../../cmd/berth-monitor")...)
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build berth-monitor:", err)
		os.Exit(1)
	}
	code := m.Run()
	removeGroup()
	os.RemoveAll(dir)
	os.Exit(code)
}

func removeGroup() {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, root := range append(roots, "/sys/fs/cgroup") {
		dir := filepath.Join(root, group)
		for range 100 {
			entries, _ := filepath.Glob(dir + "/*/")
			for _, e := range entries {
				syscall.Rmdir(strings.TrimSuffix(e, "/"))
			}
			if err := syscall.Rmdir(dir); err != syscall.EBUSY && err != syscall.ENOTEMPTY {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// env is a client with its monitor, and what the client was told.
type env struct {
	t      testing.TB
	dir    string
	client *Client
	cancel func()

	mu    sync.Mutex
	exits map[string][]Exit
	told  chan struct{}
	next  int
}

func newEnv(t testing.TB) *env {
	t.Helper()
	e := newEnvWithoutMonitor(t)
	e.connect()
	return e
}

// newEnvWithoutMonitor is for a test that calls connect itself.
func newEnvWithoutMonitor(t testing.TB) *env {
	t.Helper()
	e := &env{t: t, dir: filepath.Join(t.TempDir(), "state"), exits: map[string][]Exit{}, told: make(chan struct{}, 1000)}
	t.Cleanup(e.end)
	return e
}

// connect makes a client as a berthd that starts does.
func (e *env) connect() {
	e.t.Helper()
	e.client = New(Options{
		Dir: e.dir, Binary: binary, CgroupParent: group + "/monitor",
		Logger: slog.New(slog.NewTextHandler(testWriter{e.t}, nil)),
		OnExit: func(x Exit) {
			e.mu.Lock()
			e.exits[x.ID] = append(e.exits[x.ID], x)
			e.mu.Unlock()
			e.told <- struct{}{}
		},
	})
	if err := e.client.Connect(e.ctx()); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func(c *Client) {
		defer close(done)
		_ = c.Run(ctx)
	}(e.client)
	e.cancel = func() { cancel(); <-done }
}

// disconnect is what the death of berthd is to the monitor.
func (e *env) disconnect() {
	e.cancel()
	e.client.Close()
}

func (e *env) end() {
	ctx := e.ctx()
	all, err := e.client.List(ctx)
	if err != nil {
		e.t.Error(err)
	}
	for _, c := range all {
		if err := e.client.Delete(ctx, c.ID); err != nil {
			e.t.Error(err)
		}
	}
	info, err := e.client.Info(ctx)
	if err != nil {
		e.t.Error(err)
	}
	e.disconnect()
	if info.Pid > 0 {
		killMonitor(info.Pid)
	}
	log, _ := os.ReadFile(filepath.Join(e.dir, "monitor.log"))
	if bytes.Contains(log, []byte("DATA RACE")) || bytes.Contains(log, []byte("panic")) {
		e.t.Error("the monitor has a race or a panic")
	}
	if e.t.Failed() {
		e.t.Logf("monitor.log:\n%s", log)
	}
}

func killMonitor(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
}

// patience is how long anything may take, on the slowest machine.
const patience = 2 * time.Minute

func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	e.t.Cleanup(cancel)
	return ctx
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("client: %s", bytes.TrimSpace(b))
	return len(b), nil
}

// rootfs makes a root file system of busybox.
func (e *env) rootfs() string {
	e.t.Helper()
	root := filepath.Join(e.t.TempDir(), "rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
	if err := os.Link("/bin/busybox", filepath.Join(root, "bin/busybox")); err != nil {
		data, err := os.ReadFile("/bin/busybox")
		if err != nil {
			e.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
	for _, name := range []string{"sh", "sleep", "echo", "cat", "kill", "ps", "ls", "id", "yes", "head", "dd", "true", "stty", "seq", "tail", "printf", "env"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			e.t.Fatal(err)
		}
	}
	return root
}

// request makes a start request for a shell script, changed by edits.
func (e *env) request(script string, edits ...func(*StartRequest)) StartRequest {
	e.next++
	id := fmt.Sprintf("c%d", e.next)
	logs := filepath.Join(filepath.Dir(e.dir), id+".log")
	r := StartRequest{ID: id, Spec: e.spec(id, "/bin/sh", "-c", script), LogPath: logs, Runtime: runtimeUnderTest()}
	for _, edit := range edits {
		edit(&r)
	}
	return r
}

// runtimeUnderTest is nil for the built-in runtime; BERTH_TEST_HANDLER is the path of
// another one, on which the same tests have to pass.
func runtimeUnderTest() *Runtime {
	path := os.Getenv("BERTH_TEST_HANDLER")
	if path == "" {
		return nil
	}
	return &Runtime{Name: "tested", Path: path, ExecCgroup: true}
}

func (e *env) spec(id string, args ...string) *specs.Spec {
	caps := []string{"CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Root:     &specs.Root{Path: e.rootfs()},
		Hostname: id,
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=620", "gid=5"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: group + "/" + id,
			Resources:   &specs.LinuxResources{},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
		},
	}
}

func (e *env) start(script string, edits ...func(*StartRequest)) StartRequest {
	e.t.Helper()
	r := e.request(script, edits...)
	if _, err := e.client.Start(e.ctx(), r); err != nil {
		e.t.Fatal(err)
	}
	return r
}

// waitExit returns the one exit of a container.
func (e *env) waitExit(id string) Exit {
	e.t.Helper()
	deadline := time.After(patience)
	for {
		e.mu.Lock()
		all := e.exits[id]
		e.mu.Unlock()
		if len(all) > 1 {
			e.t.Fatalf("exit of %s told %d times", id, len(all))
		}
		if len(all) == 1 {
			return all[0]
		}
		select {
		case <-e.told:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			e.t.Fatalf("exit of %s not told", id)
		}
	}
}

// logText returns the text of a log's entries, put together again. What is just
// being written at the end is left out.
func logText(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data[:bytes.LastIndexByte(data, '\n')+1])) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(parts) != 4 {
			t.Fatalf("malformed log entry %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, parts[0]); err != nil {
			t.Fatalf("malformed log entry %q: %v", line, err)
		}
		b.WriteString(parts[3])
		if parts[2] == "F" {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (e *env) waitLog(path, want string) {
	e.t.Helper()
	eventually(e.t, func() error {
		if _, err := os.Stat(path); err != nil {
			return err
		}
		if got := logText(e.t, path); got != want {
			return fmt.Errorf("log is %.200q (%d bytes), want %.200q (%d bytes)", got, len(got), want, len(want))
		}
		return nil
	})
}

func eventually(t testing.TB, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func dump(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
