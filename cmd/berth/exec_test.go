package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

// shell is the program of the fake containers: its first argument says what it
// does.
func shell(p *fakecri.Process) int {
	switch p.Args[0] {
	case "echo":
		fmt.Fprintln(p.Out, strings.Join(p.Args[1:], " "))
	case "both":
		fmt.Fprint(p.Out, "to stdout\n")
		fmt.Fprint(p.Err, "to stderr\n")
	case "exit":
		var code int
		fmt.Sscan(p.Args[1], &code)
		return code
	case "cat":
		io.Copy(p.Out, p.In)
	case "greet": // a prompt, then a line of input
		fmt.Fprint(p.Out, "name? ")
		line, err := bufio.NewReader(p.In).ReadString('\n')
		if err != nil {
			return 1
		}
		fmt.Fprint(p.Out, "hello "+line)
	case "loop": // until asked to end
		fmt.Fprintln(p.Out, "looping")
		<-p.Stop
		fmt.Fprintln(p.Out, "asked to end")
		return 7
	case "stubborn":
		fmt.Fprintln(p.Out, "looping")
		<-p.Stop
		fmt.Fprintln(p.Out, "no")
		select {}
	case "sizes": // two of them
		for range 2 {
			size := <-p.Resize
			fmt.Fprintf(p.Out, "%dx%d\n", size.Width, size.Height)
		}
	case "keys": // the code of the first key is the exit code
		fmt.Fprint(p.Out, "press a key")
		key := make([]byte, 1)
		io.ReadFull(p.In, key)
		return int(key[0])
	default:
		fmt.Fprintf(p.Err, "%s: not found\n", p.Args[0])
		return 127
	}
	return 0
}

// runtimeWith starts a runtime with an image, a pod "pod" and a running
// container "box".
func runtimeWith(t *testing.T, options fakecri.Options) *fakecri.Server {
	t.Helper()
	options.Program = shell
	s := fakecri.Start(t, options)
	s.AddImage(&runtimeapi.Image{Id: imageID, RepoTags: []string{"busybox:1"}})
	s.AddPod(&runtimeapi.PodSandboxStatus{Id: webPodID, Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default"}})
	s.AddContainer(webPodID, &runtimeapi.ContainerStatus{
		Id: webID, Metadata: &runtimeapi.ContainerMetadata{Name: "box"}, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
	})
	return s
}

// eachTransport runs a test with both protocols, with only one, and with only
// the other.
func eachTransport(t *testing.T, test func(t *testing.T, options fakecri.Options)) {
	for name, options := range map[string]fakecri.Options{
		"both": {}, "no WebSocket": {RefuseUpgrade: "websocket"},
	} {
		t.Run(name, func(t *testing.T) { test(t, options) })
	}
}

func TestExecStreams(t *testing.T) {
	eachTransport(t, func(t *testing.T, options fakecri.Options) {
		s := runtimeWith(t, options)
		code, out, errOut := berth(t, s, "exec", "box", "both")
		if code != 0 || out != "to stdout\n" || errOut != "to stderr\n" {
			t.Errorf("exit code %d, output %q, errors %q", code, out, errOut)
		}
		code, out, errOut = berth(t, s, "exec", "-t", "box", "both")
		if code != 0 || out != "to stdout\nto stderr\n" || errOut != "" {
			t.Errorf("with a terminal: exit code %d, output %q, errors %q", code, out, errOut)
		}
	})
}

func TestExecInputEnds(t *testing.T) {
	eachTransport(t, func(t *testing.T, options fakecri.Options) {
		s := runtimeWith(t, options)
		text := strings.Repeat("0123456789abcde\n", 1<<15)
		inv := begin(t, s, strings.NewReader(text), "exec", "-i", "box", "cat")
		if code := inv.wait(); code != 0 || inv.out.String() != text {
			t.Errorf("exit code %d, %d bytes of %d, errors %q", code, len(inv.out.String()), len(text), inv.err.String())
		}
	})
}

func TestExecExitCode(t *testing.T) {
	eachTransport(t, func(t *testing.T, options fakecri.Options) {
		s := runtimeWith(t, options)
		for _, args := range [][]string{{"exec", "box"}, {"exec", "-i", "box"}, {"exec", "-t", "box"}, {"exec", "--sync", "box"}} {
			code, _, errOut := berth(t, s, append(args, "exit", "42")...)
			if code != 42 || errOut != "" {
				t.Errorf("%v: exit code %d, errors %q", args, code, errOut)
			}
		}
	})
}

func TestExecFlagsEndAtTheContainer(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	want(t, "output", wantOK(t, s, "exec", "box", "echo", "-i", "--tty", "x"), "-i --tty x\n")
}

func TestExecSync(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	code, out, errOut := berth(t, s, "exec", "--sync", "--timeout", "1500ms", "box", "both")
	if code != 0 || out != "to stdout\n" || errOut != "to stderr\n" {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errOut)
	}
	req := s.Requests("ExecSync")[0].(*runtimeapi.ExecSyncRequest)
	if req.Timeout != 2 {
		t.Errorf("timeout of %d s, want 1.5 s rounded up", req.Timeout)
	}
}

func TestExecFailures(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	wantFailure(t, s, exitRunFailed, []string{`no container "nope"`}, "exec", "nope", "true")
	wantFailure(t, s, exitNotFound, []string{`exec in "box": `, "/missing: no such file or directory"}, "exec", "box", "/missing")
	s.AddContainer(webPodID, &runtimeapi.ContainerStatus{
		Id: sideID, Metadata: &runtimeapi.ContainerMetadata{Name: "done"}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
	})
	wantFailure(t, s, exitRunFailed, []string{`exec in "done": `, "is not running"}, "exec", "done", "true")
}

func TestExecConversation(t *testing.T) {
	eachTransport(t, func(t *testing.T, options fakecri.Options) {
		s := runtimeWith(t, options)
		in, typist := io.Pipe()
		inv := begin(t, s, in, "exec", "-it", "box", "greet")
		inv.waitFor("name? ")
		io.WriteString(typist, "Ada\n")
		if code := inv.wait(); code != 0 {
			t.Errorf("exit code %d, errors %q", code, inv.err.String())
		}
		want(t, "output", inv.out.String(), "name? hello Ada\n")
	})
}
