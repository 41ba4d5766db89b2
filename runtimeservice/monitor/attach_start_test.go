package monitor

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// attachPipes are the two sides of a client's streams.
func attachPipes(t *testing.T, stdin bool) (req AttachRequest, in, out, errw *os.File, closeTheirs func()) {
	t.Helper()
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w
	}
	if stdin {
		req.Stdin, in = pipe()
	}
	out, req.Stdout = pipe()
	errw, req.Stderr = pipe()
	return req, in, out, errw, func() {
		for _, f := range []*os.File{req.Stdin, req.Stdout, req.Stderr} {
			if f != nil {
				f.Close()
			}
		}
	}
}

// Clients that a start brings get everything, however fast the container is.
func TestStartWithClients(t *testing.T) {
	e := newEnv(t)
	for i := range 20 {
		tty := i%2 == 1
		first, in, out, errw, sent := attachPipes(t, true)
		second, _, out2, _, sent2 := attachPipes(t, false)
		r := e.request("echo first; echo other >&2; read x; echo got $x; exit 4", func(r *StartRequest) {
			r.Stdin, r.StdinOnce, r.Spec.Process.Terminal = true, true, tty
			r.Attach = []AttachRequest{first, second}
		})
		io.WriteString(in, "word\n") // before it runs
		started, err := e.client.Start(e.ctx(), r)
		sent()
		sent2()
		if err != nil {
			t.Fatal(err)
		}
		want, wantErr := "first\ngot word\n", "other\n"
		if tty {
			want, wantErr = "word\r\nfirst\r\nother\r\ngot word\r\n", ""
		}
		for name, from := range map[string]*os.File{"first": out, "second": out2} {
			data, _ := io.ReadAll(from)
			// The terminal's echo comes before or between the output.
			if got := string(data); got != want && !(tty && len(got) == len(want) && strings.Contains(got, "first\r\n")) {
				t.Errorf("tty %t: %s client got %q, want %q", tty, name, got, want)
			}
		}
		if data, _ := io.ReadAll(errw); string(data) != wantErr {
			t.Errorf("tty %t: errors are %q, want %q", tty, data, wantErr)
		}
		if len(started.Ended) != 2 {
			t.Fatalf("%d sessions", len(started.Ended))
		}
		for _, ended := range started.Ended {
			<-ended
		}
		in.Close()
		if x := e.waitExit(r.ID); x.Code != 4 {
			t.Error(dump(x))
		}
	}
}

// A failed start leaves the clients their end.
func TestFailedStartEndsClients(t *testing.T) {
	e := newEnv(t)
	for name, edit := range map[string]func(*StartRequest){
		"no command":  func(r *StartRequest) { r.Spec.Process.Args = []string{"/nonexistent"} },
		"no log":      func(r *StartRequest) { r.LogPath = "/nonexistent/log" },
		"wrong ID":    func(r *StartRequest) { r.ID = "../x" },
		"many":        func(r *StartRequest) { r.Attach = make([]AttachRequest, 100) },
		"bad process": func(r *StartRequest) { r.Spec.Process.Args = nil },
	} {
		t.Run(name, func(t *testing.T) {
			req, _, out, errw, sent := attachPipes(t, false)
			r := e.request("true", func(r *StartRequest) { r.Attach = []AttachRequest{req} }, edit)
			if _, err := e.client.Start(e.ctx(), r); err == nil {
				t.Error("no error")
			}
			sent()
			for _, f := range []*os.File{out, errw} {
				if data, err := io.ReadAll(f); err != nil || len(data) > 0 {
					t.Errorf("%q, %v", data, err)
				}
			}
		})
	}
	if open := openFiles(t, e.pid()); open > 100 {
		t.Errorf("the monitor has %d files open", open)
	}
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
