package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// executors open a session as kubectl does.
var executors = map[string]func(*url.URL) (remotecommand.Executor, error){
	"SPDY": func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(&restclient.Config{}, http.MethodPost, u)
	},
	"WebSocket": func(u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutorForProtocols(&restclient.Config{}, http.MethodGet, u.String(), "v4.channel.k8s.io")
	},
}

// stream runs a session to its end.
func stream(t testing.TB, ctx context.Context, protocol, rawURL string, o remotecommand.StreamOptions) error {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	if host := u.Hostname(); host != "127.0.0.1" && host != "::1" {
		t.Errorf("streams are served at %s", host)
	}
	e, err := executors[protocol](u)
	if err != nil {
		t.Fatal(err)
	}
	return e.StreamWithContext(ctx, o)
}

func (c *ctr) execURL(t testing.TB, r *runtimeapi.ExecRequest) string {
	t.Helper()
	r.ContainerId = c.id
	resp, err := c.pod.d.runtime.Exec(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}

func TestExecStreams(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	for protocol := range executors {
		input := strings.Repeat("0123456789abcdef", 1<<14)
		var stdout, stderr bytes.Buffer
		err := stream(t, t.Context(), protocol, c.execURL(t, &runtimeapi.ExecRequest{
			Cmd: []string{"sh", "-c", "head -c 262144; echo bad >&2; exit 5"}, Stdin: true, Stdout: true, Stderr: true,
		}), remotecommand.StreamOptions{Stdin: strings.NewReader(input), Stdout: &stdout, Stderr: &stderr})
		var exit clientexec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 5 {
			t.Errorf("%s: error is %v", protocol, err)
		}
		if stdout.String() != input || stderr.String() != "bad\n" {
			t.Errorf("%s: %d bytes of stdout, stderr %q", protocol, stdout.Len(), stderr.String())
		}
	}
}

// The end of the input reaches the command.
func TestExecEndOfInput(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	var stdout bytes.Buffer
	err := stream(t, t.Context(), "SPDY", c.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"wc", "-c"}, Stdin: true, Stdout: true}),
		remotecommand.StreamOptions{Stdin: strings.NewReader("12345"), Stdout: &stdout})
	if err != nil || strings.TrimSpace(stdout.String()) != "5" {
		t.Errorf("%q, %v", stdout.String(), err)
	}
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestExecWithATerminal(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	for protocol := range executors {
		queue := make(sizes, 1)
		queue <- remotecommand.TerminalSize{Width: 101, Height: 37}
		input, typed := io.Pipe()
		var stdout bytes.Buffer
		ended := make(chan error, 1)
		go func() {
			ended <- stream(t, t.Context(), protocol, c.execURL(t, &runtimeapi.ExecRequest{
				Cmd:   []string{"sh", "-c", "while [ \"$(stty size)\" != '37 101' ]; do sleep 0.05; done; echo resized; read x; echo got $x; tty"},
				Stdin: true, Stdout: true, Tty: true,
			}), remotecommand.StreamOptions{Stdin: input, Stdout: &stdout, Tty: true, TerminalSizeQueue: queue})
		}()
		io.WriteString(typed, "words\n")
		err := <-ended
		close(queue)
		typed.Close()
		out := strings.ReplaceAll(stdout.String(), "\r", "")
		if err != nil || !strings.Contains(out, "resized\n") || !strings.Contains(out, "got words\n") || !strings.Contains(out, "/dev/pts/") {
			t.Errorf("%s: %q, %v", protocol, out, err)
		}
	}
}

// What an exec runs ends with its client.
func TestExecEndsWithItsClient(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	for protocol := range executors {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		u := c.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"sleep", "7654"}, Stdout: true})
		go func() { ended <- stream(t, ctx, protocol, u, remotecommand.StreamOptions{Stdout: io.Discard}) }()
		running := func() string { return c.sh("ps -o args | grep -c '[s]leep 7654' || true") }
		eventually(t, protocol+": the command runs", func() bool { return running() == "1" })
		cancel()
		<-ended
		eventually(t, protocol+": the command has ended", func() bool { return running() == "0" })
	}
}

func TestAttach(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(shell("while read x; do echo got $x; done; echo end of input; sleep 1000"), func(c *runtimeapi.ContainerConfig) {
		c.Stdin, c.StdinOnce = true, true
	})
	resp, err := shared.runtime.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: c.id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	input, typed := io.Pipe()
	output, shown := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- stream(t, ctx, "SPDY", resp.Url, remotecommand.StreamOptions{Stdin: input, Stdout: shown, Stderr: io.Discard})
		shown.Close()
	}()
	buf := make([]byte, 100)
	for _, word := range []string{"one", "two"} {
		io.WriteString(typed, word+"\n")
		n, err := output.Read(buf)
		if err != nil || string(buf[:n]) != "got "+word+"\n" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	typed.Close()
	n, err := output.Read(buf)
	if err != nil || string(buf[:n]) != "end of input\n" {
		t.Errorf("after the end: %q, %v", buf[:n], err)
	}
	cancel()
	go io.Copy(io.Discard, output)
	<-ended
	same(t, "the log has it too", strings.HasPrefix(c.stdout(), "got one\ngot two"), true)
	same(t, "the container goes on", c.status().State, runtimeapi.ContainerState_CONTAINER_RUNNING)
}

func TestPortForward(t *testing.T) {
	for name, options := range map[string][]podOption{"pod network": nil, "host network": {hostNetwork}} {
		t.Run(name, func(t *testing.T) {
			p := runPod(t, options...)
			// Only the pod's own loopback interface is served.
			address := freeAddress(t)
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			c := p.run(shell("echo -n forwarded > /tmp/index.html; exec httpd -f -p " + address + " -h /tmp"))
			eventually(t, "the server listens", func() bool { return c.sh("netstat -ltn | grep -c ' "+address+" ' || true") == "1" })
			resp, err := shared.runtime.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.id, Port: []int32{int32(atoi(t, port))}})
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
			f, err := portforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u),
				[]string{"127.0.0.1"}, []string{"0:" + port}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatal(err)
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				resp, err := http.Get("http://127.0.0.1:" + itoa(int(ports[0].Local)))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(body) != "forwarded" {
					t.Errorf("%q, %v", body, err)
				}
			}
			close(stop)
			<-ended
		})
	}
}

// A hundred failing attempts leave no process and no descriptor in either
// program; the check for leaks after the test sees to it (CVE-2022-23471).
func TestFailingExecsLeaveNothing(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	for i := range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := stream(t, ctx, "SPDY", c.execURL(t, &runtimeapi.ExecRequest{
			Cmd: []string{"no-such-command"}, Stdin: true, Stdout: true, Tty: i%2 == 0,
		}), remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Tty: i%2 == 0})
		cancel()
		if err == nil {
			t.Fatal("a command that does not exist ran")
		}
	}
}
