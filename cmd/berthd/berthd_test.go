package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/berth-cri/berth/config"
)

// asBerthd makes the test binary act as berthd, with a gRPC health service in
// the place of the daemon's parts, which need privileges.
const asBerthd = "BERTHD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asBerthd) != "" {
		os.Exit(execute(newCommand(runHealthService)))
	}
	os.Exit(m.Run())
}

func runHealthService(ctx context.Context, cfg config.Config, s *surface) error {
	newHandlers(cfg, s)
	return s.Serve(ctx, func(ctx context.Context, listener net.Listener) error {
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, health.NewServer())
		defer context.AfterFunc(ctx, server.Stop)()
		return server.Serve(listener)
	})
}

func command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asBerthd+"=1")
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// berthd runs it to its end.
func berthd(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := command(nil, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// daemon is a berthd that serves.
type daemon struct {
	t           *testing.T
	cmd         *exec.Cmd
	root, state string
	done        chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

func (d *daemon) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(p)
}

func (d *daemon) logged() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// start starts one with directories of its own, and waits until it serves.
func start(t *testing.T, env []string, args ...string) *daemon {
	t.Helper()
	dir := shortTempDir(t)
	d := &daemon{t: t, root: filepath.Join(dir, "root"), state: filepath.Join(dir, "state"), done: make(chan struct{})}
	d.cmd = command(env, append([]string{"--root", d.root, "--state", d.state, "--config", emptyConfig(t)}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = d, d
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-d.done
	})
	d.waitFor("msg=serving address")
	return d
}

// shortTempDir leaves room for a socket's path, which t.TempDir does not always.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "berthd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// emptyConfig keeps the machine's own configuration out of a test.
func emptyConfig(t *testing.T) string {
	return write(t, filepath.Join(t.TempDir(), "berthd.yaml"), "")
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// patience is how long anything may take, on the slowest machine.
const patience = 2 * time.Minute

// waitFor waits for a line of the log that matches.
func (d *daemon) waitFor(pattern string) string {
	d.t.Helper()
	re := regexp.MustCompile("(?m)^.*" + pattern + ".*$")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if line := re.FindString(d.logged()); line != "" {
			return line
		}
		select {
		case <-d.done:
			if line := re.FindString(d.logged()); line != "" {
				return line
			}
			d.t.Fatalf("berthd ended (%s) without logging %q:\n%s", d.cmd.ProcessState, pattern, d.logged())
		case <-time.After(5 * time.Millisecond):
		}
	}
	d.t.Fatalf("nothing like %q in the log:\n%s", pattern, d.logged())
	return ""
}

func (d *daemon) signal(sig os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
}

// wait gives the exit code.
func (d *daemon) wait() int {
	d.t.Helper()
	select {
	case <-d.done:
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		d.t.Fatalf("berthd does not end:\n%s", d.logged())
		return 0
	}
}

func (d *daemon) client(address string) healthpb.HealthClient {
	d.t.Helper()
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func (d *daemon) mustAnswer(address string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := d.client(address).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		d.t.Errorf("%s does not answer: %v", address, err)
	}
}

const head = "apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\n"

func TestConfigDefault(t *testing.T) {
	out, stderr, code := berthd(t, "config", "default")
	if code != 0 || out != config.DefaultYAML() {
		t.Fatalf("exit %d, %s\n%s", code, stderr, out)
	}
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), out)
	if _, stderr, code := berthd(t, "config", "check", "--config", file); code != 0 {
		t.Errorf("the printed default does not pass: %s", stderr)
	}
}

func TestConfigCheck(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "c.yaml"), head+"log: {level: warn}\n")
	out, stderr, code := berthd(t, "config", "check", "--config", file)
	if code != 0 || out != "read "+file+"\nthe configuration is valid\n" {
		t.Errorf("exit %d, %q, %s", code, out, stderr)
	}

	dropIn := write(t, filepath.Join(dir, "c.yaml.d", "x.yaml"), head+"\nnetwork:\n  confDir: []\nroots: /x\n")
	out, stderr, code = berthd(t, "config", "check", "--config", file)
	want := "berthd: " + dropIn + ":5: network.confDir: unknown key; did you mean confDirs?\n" +
		"berthd: " + dropIn + ":6: roots: unknown key; did you mean root?\n"
	if code != 1 || out != "" || stderr != want {
		t.Errorf("exit %d, %q, stderr\n%swant\n%s", code, out, stderr, want)
	}
	// A start says the same, and makes nothing.
	root := filepath.Join(dir, "root")
	if _, stderr, code = berthd(t, "--config", file, "--root", root, "--state", filepath.Join(dir, "state")); code != 1 || stderr != want {
		t.Errorf("start: exit %d, %s", code, stderr)
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("a start with a bad configuration made its directory: %v", err)
	}

	missing := filepath.Join(dir, "missing.yaml")
	if _, stderr, code = berthd(t, "config", "check", "--config", missing); code != 1 || !strings.Contains(stderr, missing+": no such file or directory") {
		t.Errorf("missing file: exit %d, %s", code, stderr)
	}
}

func TestConfigPrint(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), head+"log: {level: warn, format: json}\n")
	args := []string{"config", "print", "--config", file, "--log-level", "error", "--state", "/run/other", "--metrics-address", "[::1]:1"}
	out, stderr, code := berthd(t, args...)
	if code != 0 {
		t.Fatal(stderr)
	}
	for _, want := range []string{"\nstate: /run/other\n", "\naddress: /run/other/berth.sock\n", "\n  level: error\n", "\n  format: json\n", "\n  address: '[::1]:1'\n", "\nroot: /var/lib/berth\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	out, _, _ = berthd(t, append(args, "--origins")...)
	for _, want := range []string{"level: error # --log-level\n", "format: json # " + file + ":3\n", "root: /var/lib/berth\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("with origins: %q is not in\n%s", want, out)
		}
	}
}

func TestFlagsThatAreWrong(t *testing.T) {
	file := emptyConfig(t)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--log-level", "loud"}, `berthd: --log-level: log.level: "loud" has to be one of debug, info, warn, error` + "\n"},
		{[]string{"--metrics-address", "9100"}, `berthd: --metrics-address: metrics.address: "9100" is not host:port` + "\n"},
		{[]string{"--root", ""}, "berthd: --root: root: is empty; it has to be an absolute path\n"},
		{[]string{"--nonsense"}, "berthd: unknown flag: --nonsense\n"},
		{[]string{"nonsense"}, "berthd: unknown command \"nonsense\" for \"berthd\"\n"},
		{[]string{"config", "nonsense"}, "berthd: unknown command \"nonsense\" for \"berthd config\"\n"},
	} {
		_, stderr, code := berthd(t, append(test.args, "--config", file)...)
		if code != 1 || stderr != test.want {
			t.Errorf("%q: exit %d, %s", test.args, code, stderr)
		}
	}
}

func TestRelativePathsOfFlags(t *testing.T) {
	cmd := command(nil, "config", "print", "--config", emptyConfig(t), "--state", "s", "--root", "./r/", "--address", "unix:///run/a.sock")
	cmd.Dir = "/usr"
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nstate: /usr/s\n", "\nroot: /usr/r\n", "\naddress: /run/a.sock\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

func TestVersion(t *testing.T) {
	if out, _, code := berthd(t, "version"); code != 0 || !strings.HasPrefix(out, "berthd unknown (go") {
		t.Errorf("exit %d, %q", code, out)
	}
}

func TestSecondStart(t *testing.T) {
	first := start(t, nil)
	other := filepath.Join(shortTempDir(t), "other")
	for name, args := range map[string][]string{
		"state": {"--state", first.state, "--root", other},
		"root":  {"--root", first.root, "--state", other},
	} {
		_, stderr, code := berthd(t, append(args, "--config", emptyConfig(t), "--address", other+".sock")...)
		dir := map[string]string{"state": first.state, "root": first.root}[name]
		want := fmt.Sprintf("berthd: %s directory: directory %q is in use by berthd with PID %d\n", name, dir, first.cmd.Process.Pid)
		if code != 1 || stderr != want {
			t.Errorf("%s: exit %d, stderr\n%swant\n%s", name, code, stderr, want)
		}
	}
	first.mustAnswer(filepath.Join(first.state, "berth.sock"))
}

func TestSocketInUse(t *testing.T) {
	first := start(t, nil)
	socket := filepath.Join(first.state, "berth.sock")
	dir := shortTempDir(t)
	_, stderr, code := berthd(t, "--config", emptyConfig(t), "--root", dir+"/r", "--state", dir+"/s", "--address", socket)
	want := regexp.MustCompile(fmt.Sprintf(`^berthd: socket %q is in use by \S+ with PID %d\n$`, socket, first.cmd.Process.Pid))
	if code != 1 || !want.MatchString(stderr) {
		t.Errorf("exit %d, %s", code, stderr)
	}
	first.mustAnswer(socket)
}

func TestMetricsAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := shortTempDir(t)
	_, stderr, code := berthd(t, "--config", emptyConfig(t), "--root", dir+"/r", "--state", dir+"/s", "--metrics-address", l.Addr().String())
	if code != 1 || !strings.Contains(stderr, "listen on metrics address \""+l.Addr().String()+"\"") || !strings.Contains(stderr, "address already in use") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if _, err := os.Lstat(dir + "/s/berth.sock"); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestDirectoriesThatCannotBeUsed(t *testing.T) {
	dir := shortTempDir(t)
	file := write(t, filepath.Join(dir, "file"), "keep")
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	fine := filepath.Join(dir, "fine")
	for _, test := range []struct{ root, state, want string }{
		{file, fine, "root directory: mkdir " + file + ": not a directory"},
		{fine, file, "state directory: mkdir " + file + ": not a directory"},
		{fine, file + "/below", "state directory: mkdir " + file + ": not a directory"},
		{"/proc/berth", fine, "root directory: mkdir /proc/berth: no such file or directory"},
		// Where nobody may write, root neither.
		{"/proc/sys", fine, `root directory: `},
		{fine, open, `state directory: use "` + open + `": others than its owner can write to it (mode 0777)`},
	} {
		_, stderr, code := berthd(t, "--config", emptyConfig(t), "--root", test.root, "--state", test.state, "--address", dir+"/s.sock")
		if code != 1 || !strings.Contains(stderr, test.want) {
			t.Errorf("root %s, state %s: exit %d, stderr\n%swant\n%s", test.root, test.state, code, stderr, test.want)
		}
	}
	if _, stderr, code := berthd(t, "--config", emptyConfig(t), "--root", fine, "--state", fine+"2", "--address", file); code != 1 || !strings.Contains(stderr, "is there and is not a socket") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// A daemon that was killed leaves a socket and a lock file behind.
func TestStartAfterKill(t *testing.T) {
	first := start(t, nil)
	first.signal(syscall.SIGKILL)
	first.wait()
	if _, err := os.Lstat(filepath.Join(first.state, "berth.sock")); err != nil {
		t.Fatalf("no socket was left behind: %v", err)
	}
	second := start(t, nil, "--root", first.root, "--state", first.state)
	second.mustAnswer(filepath.Join(first.state, "berth.sock"))
}

func TestTwoInstances(t *testing.T) {
	for range 2 {
		d := start(t, nil)
		d.mustAnswer(filepath.Join(d.state, "berth.sock"))
		for dir, mode := range map[string]os.FileMode{d.root: 0o700, d.state: 0o711} {
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", dir, info, err)
			}
		}
		if info, err := os.Stat(filepath.Join(d.state, "berth.sock")); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("socket: %v, %v", info, err)
		}
	}
}

func TestStop(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		d := start(t, nil)
		socket := filepath.Join(d.state, "berth.sock")
		// A client that follows a stream must not keep the daemon from ending.
		watch, err := d.client(socket).Watch(context.Background(), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		d.signal(sig)
		if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ends with %v", err)
		}
		if code := d.wait(); code != 0 {
			t.Errorf("%s: exit %d\n%s", sig, code, d.logged())
		}
		if _, err := os.Lstat(socket); !os.IsNotExist(err) {
			t.Errorf("%s: the socket stays: %v", sig, err)
		}
	}
}

func TestMonitoring(t *testing.T) {
	d := start(t, nil, "--metrics-address", "127.0.0.1:0")
	line := d.waitFor("serving metrics")
	url := "http://" + line[strings.LastIndex(line, "=")+1:]
	for path, want := range map[string]string{
		"/metrics":      `(?s)berth_build_info\{version="unknown"\} 1.*go_goroutines \d+.*process_resident_memory_bytes`,
		"/healthz":      `^ok\n$`,
		"/debug/pprof/": `goroutine`,
	} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !regexp.MustCompile(want).Match(body) {
			t.Errorf("%s: %d, %v\n%s", path, resp.StatusCode, err, body)
		}
	}
}

func TestJSONLog(t *testing.T) {
	dir := shortTempDir(t)
	cmd := command(nil, "--config", emptyConfig(t), "--root", dir+"/r", "--state", dir+"/s", "--log-format", "json")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 1<<12)
	n, _ := stderr.Read(line)
	cmd.Process.Kill()
	cmd.Wait()
	if !regexp.MustCompile(`^\{"time":"[^"]+","level":"INFO","msg":"starting","version":`).Match(line[:n]) {
		t.Errorf("the log begins with %s", line[:n])
	}
}

func TestReload(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), head+"log: {level: info}\n")
	d := start(t, nil, "--config", file)

	write(t, file, head+"log: {level: debug}\nnetwork: {timeout: 30s}\n")
	d.signal(syscall.SIGHUP)
	d.waitFor(`msg=reloaded changed=\[log.level\]`)
	d.waitFor(`wait for the next start of berthd" keys=\[network.timeout\]`)

	write(t, file, head+"\nlog: {levle: error}\n")
	d.signal(syscall.SIGHUP)
	d.waitFor(regexp.QuoteMeta(file) + `:4: log.levle: unknown key`)

	// The level of before the mistake is in force, so this is no change.
	write(t, file, head+"log: {level: debug}\n")
	d.signal(syscall.SIGHUP)
	d.waitFor(`msg=reloaded changed=\[\]`)
	d.mustAnswer(filepath.Join(d.state, "berth.sock"))
}

func TestReloadOfTheLevelIsFelt(t *testing.T) {
	m := newManager(t)
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), head)
	d := start(t, []string{"NOTIFY_SOCKET=" + m.name}, "--config", file)
	m.expect("^READY=1")
	d.waitFor("msg=serving")
	before := d.logged()
	write(t, file, head+"log: {level: error}\n")
	d.signal(syscall.SIGHUP)
	m.expect("^RELOADING=1")
	m.expect("^READY=1")
	d.signal(syscall.SIGTERM)
	d.wait()
	if after := d.logged(); after != before {
		t.Errorf("logged below the level: %s", after[len(before):])
	}
}

// A flag wins over the file at a reload too.
func TestReloadKeepsFlags(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), head)
	d := start(t, nil, "--config", file, "--log-level", "info")
	write(t, file, head+"log: {level: error}\n")
	d.signal(syscall.SIGHUP)
	d.waitFor(`msg=reloaded changed=\[\]`)
}

// manager listens as a service manager does.
type manager struct {
	t    *testing.T
	name string
	conn *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	name := filepath.Join(shortTempDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, name, conn}
}

// expect takes the next message but for signs of life, which come at any time.
func (m *manager) expect(want string) {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		buf := make([]byte, 4096)
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("waiting for %q: %v", want, err)
		}
		got := string(buf[:n])
		if regexp.MustCompile(want).MatchString(got) {
			return
		}
		if got != "WATCHDOG=1" {
			m.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestServiceManager(t *testing.T) {
	m := newManager(t)
	file := write(t, filepath.Join(t.TempDir(), "c.yaml"), head)
	d := start(t, []string{"NOTIFY_SOCKET=" + m.name, "WATCHDOG_USEC=100000"}, "--config", file)

	ready := "^READY=1\nSTATUS=serving " + d.state + "/berth.sock$"
	m.expect(ready)
	m.expect("^WATCHDOG=1$")
	m.expect("^WATCHDOG=1$")
	for _, text := range []string{head, "nonsense"} {
		write(t, file, text)
		d.signal(syscall.SIGHUP)
		m.expect("^RELOADING=1\nMONOTONIC_USEC=[0-9]+$")
		m.expect(ready)
	}
	d.signal(syscall.SIGTERM)
	m.expect("^STOPPING=1\n")
	if code := d.wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
}
