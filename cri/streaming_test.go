package cri

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	restclient "k8s.io/client-go/rest"
	clientportforward "k8s.io/client-go/tools/portforward"
	clientremote "k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// transports run a session with kubectl's own client.
var transports = map[string]func(t testing.TB, rawURL string) clientremote.Executor{
	"SPDY": func(t testing.TB, rawURL string) clientremote.Executor {
		t.Helper()
		u, err := url.Parse(rawURL)
		if err != nil {
			t.Fatal(err)
		}
		e, err := clientremote.NewSPDYExecutor(&restclient.Config{}, http.MethodPost, u)
		if err != nil {
			t.Fatal(err)
		}
		return e
	},
	"WebSocket": func(t testing.TB, rawURL string) clientremote.Executor {
		t.Helper()
		e, err := clientremote.NewWebSocketExecutorForProtocols(&restclient.Config{}, http.MethodGet, rawURL, "v4.channel.k8s.io")
		if err != nil {
			t.Fatal(err)
		}
		return e
	},
}

func eachTransport(t *testing.T, test func(t *testing.T, connect func(testing.TB, string) clientremote.Executor)) {
	for name, connect := range transports {
		t.Run(name, func(t *testing.T) { test(t, connect) })
	}
}

// execURL prepares a session.
func (f *fixture) execURL(t testing.TB, r *runtimeapi.ExecRequest) string {
	t.Helper()
	r.ContainerId = "cccc"
	if r.Cmd == nil {
		r.Cmd = []string{"command", "argument"}
	}
	resp, err := f.rpc().Exec(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}

// exited is the error of a runtime for a command that ended with a status.
type exited int

func (e exited) Error() string   { return fmt.Sprintf("command ended with exit code %d", int(e)) }
func (e exited) ExitStatus() int { return int(e) }

func TestExecCopiesStreamsAndExitCode(t *testing.T) {
	eachTransport(t, func(t *testing.T, connect func(testing.TB, string) clientremote.Executor) {
		f := serve(t, nil)
		f.runtime.exec = func(_ context.Context, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, _ <-chan remotecommand.TerminalSize) error {
			if !slices.Equal(cmd, []string{"command", "argument"}) || tty {
				return fmt.Errorf("asked for %q, tty %v", cmd, tty)
			}
			if _, err := io.CopyN(out, in, 1<<20); err != nil {
				return err
			}
			io.WriteString(errw, "to stderr")
			// The library does not unwrap errors; what the service returns may be wrapped.
			return fmt.Errorf("exec in container: %w", exited(42))
		}
		input := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		var stdout, stderr bytes.Buffer
		err := connect(t, f.execURL(t, &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Stderr: true})).
			StreamWithContext(t.Context(), clientremote.StreamOptions{Stdin: bytes.NewReader(input), Stdout: &stdout, Stderr: &stderr})
		var exit clientexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 42 {
			t.Errorf("error is %v", err)
		}
		if !bytes.Equal(stdout.Bytes(), input) || stderr.String() != "to stderr" {
			t.Errorf("%d bytes of stdout, stderr %q", stdout.Len(), stderr.String())
		}
	})
}

func TestExecWithoutStdinHasNone(t *testing.T) {
	eachTransport(t, func(t *testing.T, connect func(testing.TB, string) clientremote.Executor) {
		f := serve(t, nil)
		f.runtime.exec = func(_ context.Context, _ []string, in io.Reader, out, errw io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
			fmt.Fprint(out, in == nil, errw == nil)
			return nil
		}
		var stdout bytes.Buffer
		err := connect(t, f.execURL(t, &runtimeapi.ExecRequest{Stdout: true})).
			StreamWithContext(t.Context(), clientremote.StreamOptions{Stdout: &stdout})
		if err != nil || stdout.String() != "true true" {
			t.Errorf("%q, %v", stdout.String(), err)
		}
	})
}

// sizes is a terminal that changes its size.
type sizes chan clientremote.TerminalSize

func (s sizes) Next() *clientremote.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestExecWithATerminalIsResized(t *testing.T) {
	eachTransport(t, func(t *testing.T, connect func(testing.TB, string) clientremote.Executor) {
		f := serve(t, nil)
		f.runtime.exec = func(_ context.Context, _ []string, _ io.Reader, out, _ io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
			for range 2 {
				size := <-resize
				fmt.Fprintf(out, "%dx%d tty=%v\n", size.Width, size.Height, tty)
			}
			return nil
		}
		queue := make(sizes, 2)
		queue <- clientremote.TerminalSize{Width: 80, Height: 24}
		queue <- clientremote.TerminalSize{Width: 132, Height: 43}
		defer close(queue)
		var stdout bytes.Buffer
		err := connect(t, f.execURL(t, &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Tty: true})).
			StreamWithContext(t.Context(), clientremote.StreamOptions{
				Stdin: strings.NewReader(""), Stdout: &stdout, Tty: true, TerminalSizeQueue: queue,
			})
		if err != nil || stdout.String() != "80x24 tty=true\n132x43 tty=true\n" {
			t.Errorf("%q, %v", stdout.String(), err)
		}
	})
}

func TestAttach(t *testing.T) {
	eachTransport(t, func(t *testing.T, connect func(testing.TB, string) clientremote.Executor) {
		f := serve(t, nil)
		f.runtime.attach = func(_ context.Context, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
			line := make([]byte, 5)
			if _, err := io.ReadFull(in, line); err != nil {
				return err
			}
			_, err := out.Write(bytes.ToUpper(line))
			return err
		}
		resp, err := f.rpc().Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: "cc", Stdin: true, Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		var stdout bytes.Buffer
		err = connect(t, resp.Url).StreamWithContext(t.Context(), clientremote.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &stdout})
		if err != nil || stdout.String() != "HELLO" {
			t.Errorf("%q, %v", stdout.String(), err)
		}
	})
}

// What runs in a session ends when its client goes away without a word.
func TestSessionsEndWithTheirClients(t *testing.T) {
	eachTransport(t, func(t *testing.T, connect func(testing.TB, string) clientremote.Executor) {
		f := serve(t, nil)
		entered, left := make(chan struct{}), make(chan error, 1)
		f.runtime.exec = func(ctx context.Context, _ []string, _ io.Reader, _, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
			close(entered)
			<-ctx.Done()
			left <- ctx.Err()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		go connect(t, f.execURL(t, &runtimeapi.ExecRequest{Stdout: true})).StreamWithContext(ctx, clientremote.StreamOptions{Stdout: io.Discard})
		<-entered
		if n := f.metric(t, "berth_cri_streaming_sessions"); n != 1 {
			t.Errorf("%v sessions", n)
		}
		cancel()
		select {
		case err := <-left:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the context's error is %v", err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("the session goes on without its client")
		}
		eventually(t, "no session and no connection", func() bool {
			return f.metric(t, "berth_cri_streaming_sessions") == 0 && f.server.streaming.conns.count() == 0
		})
	})
}

func TestStopEndsSessions(t *testing.T) {
	f := serve(t, nil)
	entered, left := make(chan struct{}), make(chan struct{})
	f.runtime.exec = func(ctx context.Context, _ []string, _ io.Reader, _, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
		close(entered)
		<-ctx.Done()
		close(left)
		return ctx.Err()
	}
	ended := make(chan error, 1)
	go func() {
		ended <- transports["SPDY"](t, f.execURL(t, &runtimeapi.ExecRequest{Stdout: true})).
			StreamWithContext(t.Context(), clientremote.StreamOptions{Stdout: io.Discard})
	}()
	<-entered
	if err := f.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	<-left
	if err := <-ended; err == nil {
		t.Error("the client was told of success")
	}
}

func TestTokensAreSingleUse(t *testing.T) {
	f := serve(t, nil)
	u := f.execURL(t, &runtimeapi.ExecRequest{Stdout: true})
	if err := transports["SPDY"](t, u).StreamWithContext(t.Context(), clientremote.StreamOptions{Stdout: io.Discard}); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{
		u,
		f.server.url("exec/"), f.server.url("exec/x"), f.server.url("unknown/x"), f.server.url(""),
		strings.Replace(f.execURL(t, &runtimeapi.ExecRequest{Stdout: true}), "/exec/", "/attach/", 1),
	} {
		resp, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", u, resp.Status)
		}
	}
}

func (s *Server) url(path string) string { return "http://" + s.StreamingAddress() + "/" + path }

func TestTokensExpireAndAreBounded(t *testing.T) {
	now := time.Now()
	tokens := newTokens(func() time.Time { return now })
	first, err := tokens.issue("request")
	if err != nil {
		t.Fatal(err)
	}
	for range maxTokens - 1 {
		if _, err := tokens.issue("request"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tokens.issue("request"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one too many: %v", err)
	}
	if r, ok := tokens.redeem(first); !ok || r != "request" {
		t.Errorf("redeemed %v, %v", r, ok)
	}
	if _, ok := tokens.redeem(first); ok {
		t.Error("redeemed twice")
	}
	second, err := tokens.issue("request")
	if err != nil {
		t.Errorf("after one was redeemed: %v", err)
	}
	now = now.Add(tokenTTL + time.Second)
	if _, ok := tokens.redeem(second); ok {
		t.Error("redeemed after it expired")
	}
	if _, err := tokens.issue("request"); err != nil {
		t.Errorf("after all expired: %v", err)
	}
	if len(tokens.waiting) != 1 || len(tokens.order) != 1 {
		t.Errorf("%d tokens wait, %d in order", len(tokens.waiting), len(tokens.order))
	}
}

func TestTooManySessions(t *testing.T) {
	f := serve(t, func(o *Options) { o.Streaming.MaxSessions = 1 })
	entered, leave := make(chan struct{}), make(chan struct{})
	f.runtime.exec = func(context.Context, []string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
		close(entered)
		<-leave
		return nil
	}
	ended := make(chan error, 1)
	go func() {
		ended <- transports["SPDY"](t, f.execURL(t, &runtimeapi.ExecRequest{Stdout: true})).
			StreamWithContext(t.Context(), clientremote.StreamOptions{Stdout: io.Discard})
	}()
	<-entered
	resp, err := http.Get(f.execURL(t, &runtimeapi.ExecRequest{Stdout: true}))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many: %s", resp.Status)
	}
	close(leave)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A request is refused before a token is made, with the service's code.
func TestStreamsOfWhatCannotTakeThem(t *testing.T) {
	f := serve(t, nil)
	f.runtime.err = fmt.Errorf("container is not running: %w", errdefs.ErrFailedPrecondition)
	if _, err := f.rpc().Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"a"}, Stdout: true}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Exec: %v", err)
	}
	if _, err := f.rpc().Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: "c", Stdout: true}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("Attach: %v", err)
	}
	if _, err := f.rpc().PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: "a"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("PortForward: %v", err)
	}
	for _, r := range []*runtimeapi.ExecRequest{
		{ContainerId: "c", Cmd: []string{"a"}, Stdout: true, Stderr: true, Tty: true}, {ContainerId: "c", Cmd: []string{"a"}},
	} {
		if _, err := f.rpc().Exec(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("Exec with %v: %v", r, err)
		}
	}
	if n := len(f.server.streaming.tokens.waiting); n != 0 {
		t.Errorf("%d tokens wait", n)
	}
}

func TestAttachToEachState(t *testing.T) {
	f := serve(t, nil)
	for state, want := range map[runtimeapi.ContainerState]codes.Code{
		runtimeapi.ContainerState_CONTAINER_CREATED: codes.OK,
		runtimeapi.ContainerState_CONTAINER_RUNNING: codes.OK,
		runtimeapi.ContainerState_CONTAINER_EXITED:  codes.FailedPrecondition,
		runtimeapi.ContainerState_CONTAINER_UNKNOWN: codes.FailedPrecondition,
	} {
		f.runtime.state = state
		if _, err := f.rpc().Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: "c", Stdout: true}); status.Code(err) != want {
			t.Errorf("%v: %v", state, err)
		}
	}
}

func TestPanicsInSessions(t *testing.T) {
	f := serve(t, nil)
	f.runtime.exec = func(context.Context, []string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
		panic("in a session")
	}
	err := transports["SPDY"](t, f.execURL(t, &runtimeapi.ExecRequest{Stdout: true})).
		StreamWithContext(t.Context(), clientremote.StreamOptions{Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "in a session") {
		t.Errorf("error is %v", err)
	}
	if !strings.Contains(f.log.String(), "streaming_test.go") {
		t.Errorf("the log has no stack: %s", f.log)
	}
}

// echoUpper is a port that answers in capitals, and one that refuses.
func echoUpper(_ context.Context, port int32, stream io.ReadWriteCloser) error {
	if port != 8080 {
		return fmt.Errorf("connect to port %d: connection refused", port)
	}
	buf := make([]byte, 64)
	for {
		n, err := stream.Read(buf)
		if _, werr := stream.Write(bytes.ToUpper(buf[:n])); werr != nil {
			return werr
		}
		if err != nil {
			return nil
		}
	}
}

func TestPortForwardOverSPDY(t *testing.T) {
	f := serve(t, nil)
	f.runtime.portForward = echoUpper
	resp, err := f.rpc().PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: "aa"})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(resp.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&restclient.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var out syncBuffer
	forwarder, err := clientportforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u),
		[]string{"127.0.0.1"}, []string{"0:8080", "0:81"}, stop, ready, &out, &out)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forwarder.ForwardPorts() }()
	<-ready
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	for i := range 5 {
		clients.Go(func() {
			text := strings.Repeat(fmt.Sprintf("hello %d ", i), 1000)
			got, err := talk(ports[0].Local, text)
			if err != nil || got != strings.ToUpper(text) {
				t.Errorf("client %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	clients.Wait()
	if got, _ := talk(ports[1].Local, "x"); got != "" {
		t.Errorf("the refused port answers %q", got)
	}
	close(stop)
	<-done
	eventually(t, "no session and no connection", func() bool {
		return f.server.streaming.sessions.inUse() == 0 && f.server.streaming.conns.count() == 0
	})
}

// talk sends text to a local port and returns the answer.
func talk(port uint16, text string) (string, error) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	go func() {
		io.WriteString(conn, text)
		conn.(*net.TCPConn).CloseWrite()
	}()
	b, err := io.ReadAll(conn)
	return string(b), err
}

func TestPortForwardOverWebSocket(t *testing.T) {
	f := serve(t, nil)
	entered, left := make(chan struct{}), make(chan struct{})
	f.runtime.portForward = func(ctx context.Context, port int32, stream io.ReadWriteCloser) error {
		if port == 81 {
			close(entered)
			<-ctx.Done()
			close(left)
			return nil
		}
		return echoUpper(ctx, port, stream)
	}
	resp, err := f.rpc().PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: "aa", Port: []int32{8080, 81}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := websocket.NewConfig("ws"+strings.TrimPrefix(resp.Url, "http"), "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	ws, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	// Two channels for each port, data and error; each begins with the port.
	receive := func() (channel byte, data []byte) {
		t.Helper()
		var message []byte
		if err := websocket.Message.Receive(ws, &message); err != nil {
			t.Fatal(err)
		}
		return message[0], message[1:]
	}
	for i, port := range []uint16{8080, 8080, 81, 81} {
		if channel, data := receive(); int(channel) != i || binary.LittleEndian.Uint16(data) != port {
			t.Errorf("channel %d begins with %v", channel, data)
		}
	}
	if err := websocket.Message.Send(ws, append([]byte{0}, "hello"...)); err != nil {
		t.Fatal(err)
	}
	if channel, data := receive(); channel != 0 || string(data) != "HELLO" {
		t.Errorf("channel %d says %q", channel, data)
	}
	<-entered
	ws.Close()
	select {
	case <-left:
	case <-time.After(2 * time.Minute):
		t.Fatal("the forward goes on without its client")
	}
}

// A client that creates no streams is not waited for longer than the timeout,
// and its connection does not stay.
func TestClientWithoutStreams(t *testing.T) {
	f := serve(t, func(o *Options) { o.Streaming.CreationTimeout = 20 * time.Millisecond })
	u, err := url.Parse(f.execURL(t, &runtimeapi.ExecRequest{Stdout: true}))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", u.Path)
	b, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) {
		t.Errorf("%q, %v", b, err)
	}
	eventually(t, "no session and no connection", func() bool {
		return f.server.streaming.sessions.inUse() == 0 && f.server.streaming.conns.count() == 0
	})
}

// A thousand failing attempts leave neither goroutines nor file descriptors
// (CVE-2022-23471, CVE-2025-64329).
func TestFailingSessionsLeaveNothing(t *testing.T) {
	f := serve(t, nil)
	f.runtime.exec = func(context.Context, []string, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
		return errors.New("exec: no such file")
	}
	f.runtime.attach = func(context.Context, io.Reader, io.WriteCloser, io.WriteCloser, bool, <-chan remotecommand.TerminalSize) error {
		return errors.New("attach: not running")
	}
	attempt := func(i int) {
		transport := transports["SPDY"]
		if i%2 == 1 {
			transport = transports["WebSocket"]
		}
		tty := i%4 < 2
		var u string
		if i%5 == 0 {
			resp, err := f.rpc().Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: "c", Stdout: true, Stdin: true, Tty: tty})
			if err != nil {
				t.Fatal(err)
			}
			u = resp.Url
		} else {
			u = f.execURL(t, &runtimeapi.ExecRequest{Stdin: true, Stdout: true, Tty: tty})
		}
		// An input that ends, and a terminal that no longer changes, so that
		// the client leaves nothing behind itself.
		err := transport(t, u).StreamWithContext(t.Context(), clientremote.StreamOptions{
			Stdin: strings.NewReader("x"), Stdout: io.Discard, Tty: tty,
		})
		if err == nil {
			t.Fatal("an attempt succeeded")
		}
	}
	for i := range 20 {
		attempt(i)
	}
	settled := func() (goroutines, fds int) {
		http.DefaultClient.CloseIdleConnections()
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(entries)
	}
	eventually(t, "the first connections end", func() bool { return f.server.streaming.conns.count() == 0 })
	goroutines, fds := settled()
	for i := range 1000 {
		attempt(i)
	}
	eventually(t, "all connections end", func() bool { return f.server.streaming.conns.count() == 0 })
	eventually(t, "goroutines and file descriptors as before", func() bool {
		g, n := settled()
		return g <= goroutines+10 && n <= fds+5
	})
}
