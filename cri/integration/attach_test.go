package integration

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A client that attaches to a created container loses nothing of what it writes,
// and of what it is given.
func TestAttachBeforeTheStart(t *testing.T) {
	p := runPod(t, hostNetwork)
	for name, protocol := range map[string]string{"spdy": "SPDY", "websocket": "WebSocket"} {
		for _, tty := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				c := p.create(shell("echo at once; read x; echo got $x; exit 3"), func(c *runtimeapi.ContainerConfig) {
					c.Metadata.Name = name + strings.Repeat("-tty", map[bool]int{true: 1}[tty])
					c.Stdin, c.StdinOnce, c.Tty = true, true, tty
				})
				resp, err := shared.runtime.Attach(t.Context(), &runtimeapi.AttachRequest{
					ContainerId: c.id, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty,
				})
				if err != nil {
					t.Fatal(err)
				}
				var shown bytes.Buffer
				options := remotecommand.StreamOptions{Stdin: strings.NewReader("word\n"), Stdout: &shown, Tty: tty}
				if !tty {
					options.Stderr = io.Discard
				}
				ended := make(chan error, 1)
				go func() { ended <- stream(t, t.Context(), protocol, resp.Url, options) }()
				eventually(t, "the client waits for the start", func() bool {
					ops := shared.operations(t, "AttachSession")
					return len(ops) == 1 && len(ops[0].Steps) == 1 && ops[0].Steps[0].WaitsFor == "the container's start"
				})
				c.start()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				out := strings.ReplaceAll(shown.String(), "\r", "")
				if !strings.Contains(out, "at once\n") || !strings.Contains(out, "got word\n") {
					t.Errorf("attached before the start: %q", out)
				}
			})
		}
	}
}
