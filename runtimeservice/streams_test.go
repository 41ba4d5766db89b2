package runtimeservice

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// dup is a process's own copy of a file that its parent closes.
func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	if f == nil {
		return nil
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Error(err)
		return nil
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// execs makes every exec a goroutine that stands for the process.
func execs(t *testing.T, n *node, process func(in, out, errOut *os.File, e *fakeExecution)) {
	n.monitor.exec = func(req monitor.ExecRequest) (Execution, *os.File, error) {
		e := newFakeExecution()
		in, out, errOut := dup(t, req.Stdin), dup(t, req.Stdout), dup(t, req.Stderr)
		go process(in, out, errOut, e)
		return e, nil, nil
	}
}

// TestProcessesGetBlockingPipes: one that writes faster than it is read must
// wait, not fail with EAGAIN.
func TestProcessesGetBlockingPipes(t *testing.T) {
	n, s, id := running(t)
	n.monitor.exec = func(req monitor.ExecRequest) (Execution, *os.File, error) {
		for name, f := range map[string]*os.File{"stdin": req.Stdin, "stdout": req.Stdout, "stderr": req.Stderr} {
			raw, err := f.SyscallConn() // Fd would make it a blocking one
			if err != nil {
				t.Fatal(err)
			}
			_ = raw.Control(func(fd uintptr) {
				if flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
					t.Errorf("%s has flags %#x, %v", name, flags, err)
				}
			})
		}
		e := newFakeExecution()
		e.exited <- monitor.Exit{}
		return e, nil, nil
	}
	if err := s.Exec(t.Context(), id, []string{"x"}, strings.NewReader(""), &writeCloser{}, &writeCloser{}, false, nil); err != nil {
		t.Error(err)
	}
}

func running(t *testing.T) (*node, *Service, string) {
	n := newNode(t)
	s, _ := n.start()
	return n, s, mustStart(t, s, mustRun(t, s, podConfig("web")), "app")
}

func TestExecSync(t *testing.T) {
	n, s, id := running(t)
	execs(t, n, func(_, out, errOut *os.File, e *fakeExecution) {
		_, _ = out.WriteString("out")
		_, _ = errOut.WriteString("err")
		closeAll(out, errOut)
		e.exited <- monitor.Exit{Code: 3}
	})
	stdout, stderr, code, err := s.ExecSync(t.Context(), id, []string{"x"}, 0)
	if string(stdout) != "out" || string(stderr) != "err" || code != 3 || err != nil {
		t.Errorf("%q, %q, %d, %v", stdout, stderr, code, err)
	}
	if _, _, _, err := s.ExecSync(t.Context(), id, nil, 0); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no command: %v", err)
	}
	n.monitor.exit(id, monitor.Exit{})
	if _, _, _, err := s.ExecSync(t.Context(), id, []string{"x"}, 0); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exited container: %v", err)
	}
}

func TestExecSyncKeepsTheFirst16MiB(t *testing.T) {
	n, s, id := running(t)
	execs(t, n, func(_, out, errOut *os.File, e *fakeExecution) {
		chunk := bytes.Repeat([]byte("y\n"), 1<<19)
		for range 40 {
			if _, err := out.Write(chunk); err != nil {
				t.Error(err)
			}
		}
		closeAll(out, errOut)
		e.exited <- monitor.Exit{}
	})
	stdout, _, _, err := s.ExecSync(t.Context(), id, []string{"yes"}, 0)
	if err != nil || len(stdout) != 16<<20 {
		t.Errorf("%d bytes, %v", len(stdout), err)
	}
}

func TestExecSyncTimeoutKillsTheTree(t *testing.T) {
	n, s, id := running(t)
	killed := make(chan struct{})
	execs(t, n, func(_, out, errOut *os.File, e *fakeExecution) {
		<-e.killed
		closeAll(out, errOut)
		close(killed)
	})
	_, _, _, err := s.ExecSync(t.Context(), id, []string{"sleep"}, 10*time.Millisecond)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	<-killed
}

func TestExecSyncDoesNotWaitForTheBackground(t *testing.T) {
	n, s, id := running(t)
	release := make(chan struct{})
	execs(t, n, func(_, out, errOut *os.File, e *fakeExecution) {
		_, _ = out.WriteString("started")
		e.exited <- monitor.Exit{}
		<-release // a grandchild holds the pipes
		closeAll(out, errOut)
	})
	defer close(release)
	stdout, _, _, err := s.ExecSync(t.Context(), id, []string{"daemonize"}, 0)
	if err != nil || string(stdout) != "started" {
		t.Errorf("%q, %v", stdout, err)
	}
}

func TestExecSyncOutputOfAnEndlessGrandchildIsBounded(t *testing.T) {
	n, s, id := running(t)
	execs(t, n, func(_, out, errOut *os.File, e *fakeExecution) {
		_ = errOut.Close()
		e.exited <- monitor.Exit{}
		for {
			if _, err := out.WriteString("noise "); err != nil {
				return // the pipe is closed: this one is the grandchild's problem
			}
		}
	})
	if _, _, _, err := s.ExecSync(t.Context(), id, []string{"x"}, 0); err != nil {
		t.Error(err)
	}
}

func TestExecConnectsStreams(t *testing.T) {
	n, s, id := running(t)
	execs(t, n, func(in, out, errOut *os.File, e *fakeExecution) {
		_, _ = io.Copy(out, in)
		_, _ = errOut.WriteString("done")
		closeAll(in, out, errOut)
		e.exited <- monitor.Exit{Code: 7}
	})
	var out, errOut writeCloser
	err := s.Exec(t.Context(), id, []string{"cat"}, strings.NewReader("echo"), &out, &errOut, false, nil)
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("error is %v", err)
	}
	if _, direct := err.(utilexec.ExitError); !direct {
		t.Error("the streaming server looks at the error itself, not into it")
	}
	if out.String() != "echo" || errOut.String() != "done" {
		t.Errorf("output %q, %q", out.String(), errOut.String())
	}
}

func TestExecOfAClientWhoLeavesIsKilled(t *testing.T) {
	n, s, id := running(t)
	begun, killed := make(chan struct{}), make(chan struct{})
	execs(t, n, func(in, out, errOut *os.File, e *fakeExecution) {
		close(begun)
		<-e.killed
		closeAll(in, out, errOut)
		close(killed)
	})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-begun
		leave()
	}()
	stdin, typing := io.Pipe()
	defer typing.Close()
	err := s.Exec(ctx, id, []string{"sh"}, stdin, &writeCloser{}, &writeCloser{}, false, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	<-killed
}

func TestExecTerminal(t *testing.T) {
	n, s, id := running(t)
	n.monitor.exec = func(req monitor.ExecRequest) (Execution, *os.File, error) {
		if !req.Process.Terminal || req.Stdin != nil || req.Stdout != nil {
			t.Errorf("request %+v", req)
		}
		master, slave := openTerminal(t)
		e := newFakeExecution()
		go func() {
			buf := make([]byte, 16)
			k, _ := slave.Read(buf)
			size := &unix.Winsize{}
			eventually(t, "the size has arrived", func() bool {
				size, _ = unix.IoctlGetWinsize(int(slave.Fd()), unix.TIOCGWINSZ)
				return size != nil && size.Col == 132 && size.Row == 43
			})
			_, _ = slave.WriteString("got " + string(buf[:k]))
			_ = slave.Close()
			e.exited <- monitor.Exit{}
		}()
		return e, master, nil
	}
	resize := make(chan remotecommand.TerminalSize, 1)
	resize <- remotecommand.TerminalSize{Width: 132, Height: 43}
	var out writeCloser
	if err := s.Exec(t.Context(), id, []string{"sh"}, strings.NewReader("hi\n"), &out, nil, true, resize); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "got hi") {
		t.Errorf("output %q", out.String())
	}
}

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	return master, os.NewFile(fd, "terminal")
}

func TestAttach(t *testing.T) {
	n, s, id := running(t)
	n.monitor.attach = func(req monitor.AttachRequest) (<-chan struct{}, error) {
		in, out := dup(t, req.Stdin), dup(t, req.Stdout)
		if req.Stderr != nil {
			t.Error("a stream nobody asked for")
		}
		ended := make(chan struct{})
		go func() {
			_, _ = io.Copy(out, in)
			closeAll(in, out)
			close(ended)
		}()
		return ended, nil
	}
	var out writeCloser
	if err := s.Attach(t.Context(), id, strings.NewReader("typed"), &out, nil, false, nil); err != nil {
		t.Fatal(err)
	}
	if out.String() != "typed" {
		t.Errorf("output %q", out.String())
	}
	if err := s.Attach(t.Context(), id, nil, &out, nil, true, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("terminal of a container without: %v", err)
	}
}

func TestAttachEndsWithItsClient(t *testing.T) {
	n, s, id := running(t)
	attached := make(chan *os.File, 1)
	n.monitor.attach = func(req monitor.AttachRequest) (<-chan struct{}, error) {
		attached <- dup(t, req.Stdout)
		return make(chan struct{}), nil
	}
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Attach(ctx, id, nil, &writeCloser{}, nil, false, nil) }()
	output := <-attached
	defer output.Close()
	leave()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	eventually(t, "the container's side sees that nobody reads", func() bool {
		_, err := unix.Write(int(output.Fd()), []byte("x"))
		return errors.Is(err, unix.EPIPE)
	})
}

// TestStreamsLeaveNothingOpen runs many execs of all outcomes and counts files
// (CVE-2022-23471, CVE-2025-64329).
func TestStreamsLeaveNothingOpen(t *testing.T) {
	n, s, id := running(t)
	files := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := files()
	for i := range 300 {
		if i%3 == 0 {
			n.monitor.exec = func(monitor.ExecRequest) (Execution, *os.File, error) { return nil, nil, errBoom }
			n.monitor.attach = func(monitor.AttachRequest) (<-chan struct{}, error) { return nil, errBoom }
		} else {
			execs(t, n, func(in, out, errOut *os.File, e *fakeExecution) {
				closeAll(in, out, errOut)
				e.exited <- monitor.Exit{Code: i % 2}
			})
		}
		_ = s.Exec(t.Context(), id, []string{"x"}, strings.NewReader("in"), &writeCloser{}, &writeCloser{}, i%3 == 0, nil)
		_, _, _, _ = s.ExecSync(t.Context(), id, []string{"x"}, time.Minute)
		if i%3 == 0 {
			_ = s.Attach(t.Context(), id, strings.NewReader(""), &writeCloser{}, &writeCloser{}, false, nil)
		}
	}
	eventually(t, "as many files are open as before", func() bool { return files() <= before })
}

func TestPortForwardOfTheNodesNetwork(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	config := podConfig("host")
	config.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	id := mustRun(t, s, config)
	listener, err := net.Listen("tcp", "[::1]:0") // reached after 127.0.0.1 has refused
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		request, _ := io.ReadAll(conn)
		_, _ = conn.Write(append([]byte("answer to "), request...))
		_ = conn.Close()
	}()
	port := int32(listener.Addr().(*net.TCPAddr).Port)
	stream := &duplex{Reader: strings.NewReader("question")}
	if err := s.PortForward(t.Context(), id, port, stream); err != nil {
		t.Fatal(err)
	}
	if stream.String() != "answer to question" {
		t.Errorf("got %q", stream.String())
	}
	_ = listener.Close()
	if err := s.PortForward(t.Context(), id, port, stream); err == nil {
		t.Error("no error where nobody listens")
	}
	if err := s.PortForward(t.Context(), id, 0, stream); !errdefs.IsInvalidArgument(err) {
		t.Errorf("port 0: %v", err)
	}
	if err := s.StopPodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := s.PortForward(t.Context(), id, port, stream); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("stopped sandbox: %v", err)
	}
}

// duplex is a stream whose client says what Reader has.
type duplex struct {
	io.Reader
	writeCloser
}

func TestResolve(t *testing.T) {
	n, s, id := running(t)
	if got, err := s.ResolveContainer(t.Context(), id[:10]); got != id || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := s.ResolveContainer(t.Context(), "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
	n.monitor.exit(id, monitor.Exit{})
	if _, err := s.ResolveContainer(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exited: %v", err)
	}
}
