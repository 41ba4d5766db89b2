package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func (e *env) process(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true}
}

// inputDelay makes a process wait for its input: what os.Pipe made would tell it
// EAGAIN if nobody had made it blocking.
const inputDelay = 50 * time.Millisecond

// exec runs a command to its end and returns its output.
func (e *env) exec(id, stdin string, args ...string) (stdout, stderr string, exit Exit) {
	e.t.Helper()
	in, inW, _ := os.Pipe()
	outR, out, _ := os.Pipe()
	errR, errw, _ := os.Pipe()
	x, err := e.client.Exec(e.ctx(), ExecRequest{
		ContainerID: id, Process: e.process(args...), Stdin: in, Stdout: out, Stderr: errw,
	})
	for _, f := range []*os.File{in, out, errw} {
		f.Close()
	}
	if err != nil {
		e.t.Fatal(err)
	}
	go func() {
		time.Sleep(inputDelay)
		io.WriteString(inW, stdin)
		inW.Close()
	}()
	var errText []byte
	done := make(chan struct{})
	go func() { errText, _ = io.ReadAll(errR); errR.Close(); close(done) }()
	outText, _ := io.ReadAll(outR)
	outR.Close()
	<-done
	exit, err = x.Wait(e.ctx())
	if err != nil {
		e.t.Fatal(err)
	}
	return string(outText), string(errText), exit
}

func TestExec(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	out, errText, exit := e.exec(r.ID, "hello", "sh", "-c", "cat; echo err >&2; exit 9")
	if out != "hello" || errText != "err\n" || exit.Code != 9 {
		t.Errorf("out %q, err %q, %s", out, errText, dump(exit))
	}
	if _, _, exit := e.exec(r.ID, "", "sh", "-c", "kill -TERM $$"); exit.Code != 143 {
		t.Errorf("killed: %s", dump(exit))
	}
	if out, _, _ := e.exec(r.ID, "", "cat", "/proc/1/comm"); out != "sleep\n" && out != "sh\n" {
		t.Errorf("process 1 is %q", out)
	}
	out, _, _ = e.exec(r.ID, "", "cat", "/proc/self/cgroup")
	if !strings.Contains(out, group+"/"+r.ID) {
		t.Errorf("cgroup:\n%s", out)
	}
}

func TestExecNullStreams(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	x, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: e.process("sh", "-c", "cat; echo x; exit 4")})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := x.Wait(e.ctx()); err != nil || exit.Code != 4 {
		t.Errorf("%s, %v", dump(exit), err)
	}
}

func TestExecErrors(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	_, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: e.process("/bin/nope")})
	if !errors.Is(err, ErrCommand) || !strings.Contains(err.Error(), "/bin/nope") {
		t.Errorf("no such command: %v", err)
	}
	if _, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: e.process()}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no command: %v", err)
	}
	if _, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: "none", Process: e.process("true")}); !errdefs.IsNotFound(err) {
		t.Errorf("no container: %v", err)
	}
}

// Kill reaches what the process has started, even what has detached itself.
func TestExecKill(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	outR, out, _ := os.Pipe()
	defer outR.Close()
	x, err := e.client.Exec(e.ctx(), ExecRequest{
		ContainerID: r.ID, Stdout: out,
		Process: e.process("sh", "-c", "(setsid sh -c 'sleep 7777 & sleep 7778' &) ; echo started; sleep 7779"),
	})
	out.Close()
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(outR, make([]byte, len("started\n")))
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := x.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	if err := x.Kill(e.ctx()); err != nil {
		t.Fatal(err)
	}
	if exit, err := x.Wait(e.ctx()); err != nil || exit.Code != 137 {
		t.Errorf("%s, %v", dump(exit), err)
	}
	eventually(t, func() error {
		ps, _, _ := e.exec(r.ID, "", "ps")
		if strings.Contains(ps, "777") {
			return fmt.Errorf("left:\n%s", ps)
		}
		return nil
	})
	if err := x.Kill(e.ctx()); err != nil {
		t.Errorf("second kill: %v", err)
	}
}

func TestExecTerminal(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	p := e.process("sh", "-c", "stty size; read x; echo got $x; test -t 0 && exit 6")
	p.Terminal = true
	p.ConsoleSize = &specs.Box{Width: 91, Height: 33}
	x, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: p})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Console.Close()
	var text bytes.Buffer
	read := make(chan struct{})
	go func() { io.Copy(&text, x.Console); close(read) }()
	if _, err := x.Console.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	exit, err := x.Wait(e.ctx())
	if err != nil || exit.Code != 6 {
		t.Errorf("%s, %v", dump(exit), err)
	}
	<-read
	if got := text.String(); !strings.Contains(got, "33 91") || !strings.Contains(got, "got word") {
		t.Errorf("terminal: %q", got)
	}
}

// attach connects to a container and returns our ends.
func (e *env) attach(id string, stdin bool) (in, out, errw *os.File, ended <-chan struct{}) {
	e.t.Helper()
	a := AttachRequest{ContainerID: id}
	var inR, outW, errW *os.File
	if stdin {
		inR, in, _ = os.Pipe()
		a.Stdin = inR
	}
	out, outW, _ = os.Pipe()
	errw, errW, _ = os.Pipe()
	a.Stdout, a.Stderr = outW, errW
	ended, err := e.client.Attach(e.ctx(), a)
	for _, f := range []*os.File{inR, outW, errW} {
		if f != nil {
			f.Close()
		}
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return in, out, errw, ended
}

func TestAttach(t *testing.T) {
	e := newEnv(t)
	r := e.start("while read x; do echo $x; echo e$x >&2; done; exit 8", func(r *StartRequest) { r.Stdin, r.StdinOnce = true, true })
	in, out, errw, ended := e.attach(r.ID, true)
	_, out2, _, ended2 := e.attach(r.ID, false)
	io.WriteString(in, "one\ntwo\n")
	in.Close()
	for name, want := range map[*os.File]string{out: "one\ntwo\n", out2: "one\ntwo\n", errw: "eone\netwo\n"} {
		if got, err := io.ReadAll(name); string(got) != want {
			t.Errorf("got %q, want %q, %v", got, want, err)
		}
	}
	<-ended
	<-ended2
	if x := e.waitExit(r.ID); x.Code != 8 {
		t.Errorf("%s", dump(x))
	}
}

// Without StdinOnce the standard input stays open when a client leaves.
func TestAttachTwice(t *testing.T) {
	e := newEnv(t)
	r := e.start("while read x; do echo $x; done", func(r *StartRequest) { r.Stdin = true })
	for _, word := range []string{"first", "second"} {
		in, out, errw, ended := e.attach(r.ID, true)
		io.WriteString(in, word+"\n")
		buf := make([]byte, 100)
		n, _ := out.Read(buf)
		if string(buf[:n]) != word+"\n" {
			t.Errorf("got %q", buf[:n])
		}
		in.Close()
		out.Close()
		errw.Close()
		_ = ended
	}
	e.waitLog(r.LogPath, "first\nsecond\n")
}

// A client that does not read is cut off; the container and its log go on.
func TestAttachSlow(t *testing.T) {
	e := newEnv(t)
	r := e.start("read x; yes 0123456789012345678901234567890123456789 | head -n 200000; echo end; sleep 1000",
		func(r *StartRequest) { r.Stdin = true })
	in, out, _, ended := e.attach(r.ID, true)
	defer out.Close()
	io.WriteString(in, "go\n")
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("not cut off")
	}
	eventually(t, func() error {
		if got := logText(t, r.LogPath); !strings.HasSuffix(got, "end\n") || len(got) != 200000*41+4 {
			return fmt.Errorf("log has %d bytes", len(got))
		}
		return nil
	})
}

func TestTerminal(t *testing.T) {
	e := newEnv(t)
	r := e.start("stty size; read x; stty size; echo got $x >&2; exit 2", func(r *StartRequest) {
		r.Stdin = true
		r.Spec.Process.Terminal = true
		r.Spec.Process.ConsoleSize = &specs.Box{Width: 80, Height: 25}
	})
	in, out, _, ended := e.attach(r.ID, true)
	e.waitLog(r.LogPath, "25 80\r\n")
	if err := e.client.Resize(e.ctx(), r.ID, 100, 40); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "word\n")
	text, _ := io.ReadAll(out)
	<-ended
	if !strings.Contains(string(text), "40 100") || !strings.Contains(string(text), "got word") {
		t.Errorf("terminal: %q", text)
	}
	if x := e.waitExit(r.ID); x.Code != 2 {
		t.Errorf("%s", dump(x))
	}
	log := logText(t, r.LogPath)
	if !strings.Contains(log, "25 80") || !strings.Contains(log, "got word") {
		t.Errorf("log: %q", log)
	}
}

func TestResizeWithoutTerminal(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	if err := e.client.Resize(e.ctx(), r.ID, 1, 1); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}

// Rotation while a container writes as fast as it can.
func TestReopenLog(t *testing.T) {
	e := newEnv(t)
	const lines = 60000
	r := e.start(fmt.Sprintf("seq 1 %d", lines))
	var parts []string
	for i := range 20 {
		old := fmt.Sprintf("%s.%d", r.LogPath, i)
		if err := os.Rename(r.LogPath, old); err != nil {
			t.Fatal(err)
		}
		err := e.client.ReopenLog(e.ctx(), r.ID)
		if err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		parts = append(parts, old)
		if err != nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	e.waitExit(r.ID)
	var got strings.Builder
	for _, p := range append(parts, r.LogPath) {
		if _, err := os.Stat(p); err == nil {
			got.WriteString(logText(t, p))
		}
	}
	var want strings.Builder
	for i := 1; i <= lines; i++ {
		fmt.Fprintln(&want, i)
	}
	if got.String() != want.String() {
		t.Errorf("%d bytes, want %d", got.Len(), want.Len())
	}
}

func TestKillNine(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	if err := e.client.Signal(e.ctx(), r.ID, syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if x := e.waitExit(r.ID); x.Code != 137 {
		t.Errorf("%s", dump(x))
	}
}
