package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// kernelTellsExits says whether PIDFD_INFO_EXIT exists, from Linux 6.15 on.
func kernelTellsExits(t testing.TB) bool {
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

func (e *env) pid() int {
	e.t.Helper()
	info, err := e.client.Info(e.ctx())
	if err != nil {
		e.t.Fatal(err)
	}
	return info.Pid
}

// killMonitor ends the monitor and waits until the client has another.
func (e *env) killMonitor() {
	e.t.Helper()
	old := e.pid()
	killMonitor(old)
	eventually(e.t, func() error {
		info, err := e.client.Info(e.ctx())
		if err == nil && info.Pid == old {
			err = fmt.Errorf("still process %d", old)
		}
		return err
	})
}

// A monitor that is killed takes connections until the kernel has closed its socket.
func TestConnectToAMonitorThatEnds(t *testing.T) {
	e := newEnvWithoutMonitor(t)
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	dying, err := protocol.Listen(e.dir)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := dying.Accept()
		if err == nil {
			conn.Close()
		}
		dying.Close()
	}()
	e.connect()
	if e.pid() == os.Getpid() {
		t.Error("no monitor was started")
	}
}

// The daemon is away while a container writes and exits.
func TestDeathOfClient(t *testing.T) {
	e := newEnv(t)
	writes := e.start("i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; sleep 1000")
	ends := e.start("sleep 0.2; echo last; exit 11")
	pid := e.pid()
	e.disconnect()
	e.waitLog(ends.LogPath, "last\n")
	time.Sleep(100 * time.Millisecond)
	e.connect()
	if got := e.pid(); got != pid {
		t.Errorf("monitor %d became %d", pid, got)
	}
	if x := e.waitExit(ends.ID); x.Code != 11 {
		t.Errorf("%s", dump(x))
	}
	var want strings.Builder
	for i := range 200 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	e.waitLog(writes.LogPath, want.String())
	all, err := e.client.List(e.ctx())
	if err != nil || len(all) != 2 {
		t.Errorf("list: %s, %v", dump(all), err)
	}
	// What was acknowledged is not told again.
	e.disconnect()
	e.connect()
	time.Sleep(50 * time.Millisecond)
	e.waitExit(ends.ID)
}

// The monitor is killed while containers write.
func TestDeathOfMonitor(t *testing.T) {
	e := newEnv(t)
	const lines = 20000
	r := e.start(fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; printf tail; sleep 0.5; echo end; exit 12", lines))
	idle := e.start("while read x; do echo got $x; done; exit 13", func(r *StartRequest) { r.Stdin, r.StdinOnce = true, true })
	tty := e.start("while read x; do echo got $x; done", func(r *StartRequest) { r.Stdin = true; r.Spec.Process.Terminal = true })
	for range 3 {
		e.killMonitor()
	}
	var want strings.Builder
	for i := range lines {
		fmt.Fprintln(&want, i)
	}
	x := e.waitExit(r.ID)
	if tells := kernelTellsExits(t); tells && x.Code != 12 || !tells && (!x.Unknown || x.Reason == "") {
		t.Errorf("%s", dump(x))
	}
	// A chunk may be in the log twice if the monitor died between writing it
	// and taking it out of the pipe, but nothing is missing.
	text := logText(t, r.LogPath)
	checkNothingMissing(t, text, strings.TrimSuffix(want.String(), "\n"))
	if !strings.HasSuffix(text, "tailend\n") {
		t.Errorf("log ends in %.100q", text[max(0, len(text)-100):])
	}

	in, out, _, _ := e.attach(idle.ID, true)
	io.WriteString(in, "word\n")
	in.Close()
	answer, _ := io.ReadAll(out)
	if string(answer) != "got word\n" {
		t.Errorf("attached after the monitor's death: %q", answer)
	}
	e.waitExit(idle.ID)

	in, out, _, _ = e.attach(tty.ID, true)
	io.WriteString(in, "word\n")
	e.waitContains(tty.LogPath, "got word")
	in.Close()
	out.Close()
	if stdout, _, exit := e.exec(tty.ID, "", "echo", "hello"); stdout != "hello\n" || exit.Code != 0 {
		t.Errorf("exec after the monitor's death: %q, %s", stdout, dump(exit))
	}
	for _, id := range []string{r.ID, idle.ID, tty.ID} {
		if err := e.client.Delete(e.ctx(), id); err != nil {
			t.Error(err)
		}
		e.checkNothingLeft(id)
	}
}

func (e *env) waitContains(path, want string) {
	e.t.Helper()
	eventually(e.t, func() error {
		if got := logText(e.t, path); !strings.Contains(got, want) {
			return fmt.Errorf("log lacks %q: %.300q", want, got)
		}
		return nil
	})
}

// checkNothingMissing looks for the lines of want in got, in order.
func checkNothingMissing(t *testing.T, got, want string) {
	t.Helper()
	rest := strings.Split(got, "\n")
	for _, line := range strings.Split(want, "\n") {
		for len(rest) > 0 && rest[0] != line {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			t.Fatalf("log lacks %q", line)
		}
	}
}

// A container that ends while there is no monitor.
func TestExitWithoutMonitor(t *testing.T) {
	e := newEnv(t)
	r := e.start("read x; echo $x; exit 21", func(r *StartRequest) { r.Stdin = true })
	in, _, _, _ := e.attach(r.ID, true)
	killed := e.start("echo up; sleep 1000")
	e.waitLog(killed.LogPath, "up\n")
	list, err := e.client.List(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	// Run is stopped, so that nobody starts another monitor meanwhile.
	pid := e.pid()
	e.cancel()
	killMonitor(pid)
	for _, c := range list {
		if c.ID == killed.ID {
			syscall.Kill(c.Pid, syscall.SIGTERM)
			syscall.Kill(c.Pid, syscall.SIGKILL)
			waitGone(t, c.Pid)
		}
	}
	eventually(t, func() error { return e.client.Connect(e.ctx()) })
	e.cancel = func() {}
	x := e.waitExit(killed.ID)
	if tells := kernelTellsExits(t); tells && x.Code != 137 || !tells && (!x.Unknown || x.Reason == "") {
		t.Errorf("%s", dump(x))
	}
	if all, _ := e.client.List(e.ctx()); len(all) != 2 {
		t.Errorf("list %s", dump(all))
	}
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, func() error {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(data), ") Z ") {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
}

// Both programs die while a container writes: it is not told, and the next monitor
// finds its pipes.
func TestDeathOfBothWhileOneWrites(t *testing.T) {
	e := newEnv(t)
	const lines = 50000
	r := e.start(fmt.Sprintf("echo first >&2; i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; echo last >&2; sleep 1000", lines))
	for range 4 {
		pid := e.pid()
		e.disconnect()
		killMonitor(pid)
		time.Sleep(20 * time.Millisecond) // in which nobody reads
		e.connect()
	}
	eventually(t, func() error {
		if got := logText(t, r.LogPath); !strings.Contains(got, "last") {
			return errors.New("the log has no end")
		}
		return nil
	})
	var want strings.Builder
	for i := range lines {
		fmt.Fprintln(&want, i)
	}
	if got := strings.ReplaceAll(strings.ReplaceAll(logText(t, r.LogPath), "first\n", ""), "last\n", ""); got != want.String() {
		t.Errorf("the log has %d bytes in place of %d", len(got), want.Len())
	}
}

// Both programs die, and one of the containers.
func TestDeathOfBoth(t *testing.T) {
	e := newEnv(t)
	lives := e.start("sleep 1000")
	ends := e.start("sleep 1000")
	list, _ := e.client.List(e.ctx())
	pid := e.pid()
	e.disconnect()
	killMonitor(pid)
	for _, c := range list {
		if c.ID == ends.ID {
			syscall.Kill(c.Pid, syscall.SIGKILL)
			waitGone(t, c.Pid)
		}
	}
	e.connect()
	x := e.waitExit(ends.ID)
	if !x.Unknown && x.Code != 137 || x.Unknown && x.Reason == "" {
		t.Errorf("%s", dump(x))
	}
	if _, _, exit := e.exec(lives.ID, "", "true"); exit.Code != 0 {
		t.Errorf("%s", dump(exit))
	}
	if err := e.client.Signal(e.ctx(), lives.ID, syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if x := e.waitExit(lives.ID); x.Code != 137 && !x.Unknown {
		t.Errorf("%s", dump(x))
	}
}

// An exec'ed process outlives its monitor, and its exit is known.
func TestExecOutlivesMonitor(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	in, inW, _ := os.Pipe()
	x, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: e.process("sh", "-c", "read x; exit 31"), Stdin: in})
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	e.killMonitor()
	io.WriteString(inW, "go\n")
	inW.Close()
	exit, err := x.Wait(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if tells := kernelTellsExits(t); tells && exit.Code != 31 || !tells && !exit.Unknown {
		t.Errorf("%s", dump(exit))
	}
}

// A monitor that was killed amid a start leaves nothing.
func TestUnfinishedStart(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	list, _ := e.client.List(e.ctx())
	pid := e.pid()
	e.disconnect()
	killMonitor(pid)
	// As if the record had not been completed.
	path := filepath.Join(e.dir, "containers", r.ID+".json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), fmt.Sprintf(`"pid":%d`, list[0].Pid), `"pid":0`, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e.connect()
	waitGone(t, list[0].Pid)
	e.checkNothingLeft(r.ID)
	if all, _ := e.client.List(e.ctx()); len(all) != 0 {
		t.Errorf("list: %s", dump(all))
	}
	if _, err := e.client.Start(e.ctx(), r); err != nil {
		t.Errorf("start again: %v", err)
	}
}

// Another client finds the monitor that runs.
func TestOneMonitor(t *testing.T) {
	e := newEnv(t)
	pid := e.pid()
	e.disconnect()
	defer e.connect()
	other := New(Options{Dir: e.dir, Binary: binary, CgroupParent: group + "/monitor"})
	if err := other.Connect(e.ctx()); err != nil {
		t.Fatal(err)
	}
	info, err := other.Info(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	if pid != info.Pid {
		t.Errorf("monitors %d and %d", pid, info.Pid)
	}
}

func TestMonitorProcess(t *testing.T) {
	e := newEnv(t)
	pid := e.pid()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", os.Getpid())) || !strings.Contains(string(status), "Name:\tberth-monitor\n") {
		t.Errorf("status:\n%s", status)
	}
	if sid, _ := unix.Getsid(pid); sid != pid {
		t.Errorf("session %d", sid)
	}
	cgroups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	for line := range strings.Lines(string(cgroups)) {
		if !strings.HasSuffix(strings.TrimSpace(line), group+"/monitor") {
			t.Errorf("cgroup %s", line)
		}
	}
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if !strings.Contains(exe, "memfd:") {
		t.Errorf("program %s", exe)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, "monitor.sock": 0o600, "monitor.lock": 0o600, "state": 0o700, "containers": 0o700} {
		st, err := os.Stat(filepath.Join(e.dir, path))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", path, st.Mode(), err)
		}
	}
}

// A monitor that another daemon has just started has its lock before it listens.
func TestConnectToAMonitorThatBegins(t *testing.T) {
	e := newEnvWithoutMonitor(t)
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(e.dir, protocol.LockName))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	// How long it takes does not matter: connect waits longer.
	go func() {
		time.Sleep(200 * time.Millisecond)
		lock.Close()
	}()
	e.connect()
}
