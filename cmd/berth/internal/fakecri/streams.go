package fakecri

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

func (s *runtimeService) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if _, err := s.streamable(req.ContainerId, false); err != nil {
		return nil, err
	}
	return s.stream.GetExec(req)
}

func (s *runtimeService) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	c, err := s.streamable(req.ContainerId, s.options.AttachCreated)
	if err != nil {
		return nil, err
	}
	c.promised.Add(1)
	return s.stream.GetAttach(req)
}

func (s *runtimeService) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[req.PodSandboxId] == nil {
		return nil, notFound("pod", req.PodSandboxId)
	}
	return s.stream.GetPortForward(req)
}

func (s *runtimeService) ExecSync(_ context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if _, err := s.streamable(req.ContainerId, false); err != nil {
		return nil, err
	}
	out := &output{}
	var stdout, stderr buffer
	out.attach(&stdout, &stderr)
	code := s.options.Program(&Process{
		Args: req.Cmd, In: eof{}, Out: out.stream("stdout"), Err: out.stream("stderr"), Stop: make(chan struct{}),
	})
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: int32(code)}, nil
}

func (s *Server) streamable(id string, created bool) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		return nil, notFound("container", id)
	}
	switch st := c.status.State; {
	case st == runtimeapi.ContainerState_CONTAINER_RUNNING:
	case created && st == runtimeapi.ContainerState_CONTAINER_CREATED:
	default:
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", id)
	}
	return c, nil
}

type streams struct{ *Server }

var _ streaming.Runtime = (*streams)(nil)

func (s *streams) Exec(ctx context.Context, _ string, cmd []string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	p := &Process{Args: cmd, In: in, Out: out, Err: errw, TTY: tty, Resize: resize, Stop: ctx.Done()}
	if in == nil {
		p.In = eof{}
	}
	if tty {
		p.Err = out
	}
	if len(cmd) > 0 && cmd[0] == "/missing" {
		return fmt.Errorf("start process: exec: %q: stat /missing: no such file or directory", cmd[0])
	}
	if code := s.options.Program(p); code != 0 {
		return utilexec.CodeExitError{Code: code, Err: fmt.Errorf("exit status %d", code)}
	}
	return nil
}

func (s *streams) Attach(ctx context.Context, id string, in io.Reader, out, errw io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.streamable(id, s.options.AttachCreated)
	if err != nil {
		return err
	}
	var o, e io.Writer
	if out != nil {
		o = out
	}
	if errw != nil {
		e = errw
	}
	c.output.attach(o, e)
	c.promised.Add(-1)
	if in != nil {
		go func() {
			_, _ = io.Copy(c.feed, in)
			if c.config.StdinOnce {
				c.feed.Close()
			}
		}()
	}
	for {
		select {
		case <-c.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			c.resize <- size
		}
	}
}

// PortForward answers each line with the port and the line.
func (s *streams) PortForward(_ context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	if port == 1 {
		return fmt.Errorf("connect to port 1: connection refused")
	}
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		fmt.Fprintf(stream, "%d %s\n", port, lines.Text())
	}
	return nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
