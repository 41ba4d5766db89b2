package main

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

func berthAt(address string, args ...string) (int, string) {
	var out, errOut bytes.Buffer
	code := execute(context.Background(), append([]string{"--address", address}, args...), strings.NewReader(""), &out, &errOut)
	return code, errOut.String()
}

func TestSocketErrorsSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, test := range []struct{ address, text, hint string }{
		{filepath.Join(dir, "none.sock"), "none.sock: no such file or directory", "is berthd running?"},
		{"unix://" + dead, "dead.sock: connection refused", "berthd has ended"},
		{"run/berth.sock", `"run/berth.sock" is neither an absolute path`, "unix:///run/berth/berth.sock"},
		{"tcp://127.0.0.1:1", "neither an absolute path", "unix:///"},
	} {
		code, errOut := berthAt(test.address, "pods")
		if code != 1 || !strings.Contains(errOut, test.text) || !strings.Contains(errOut, "hint: ") || !strings.Contains(errOut, test.hint) {
			t.Errorf("%s: exit code %d, errors %q", test.address, code, errOut)
		}
		if code, _ := berthAt(test.address, "run", "busybox"); code != exitRunFailed {
			t.Errorf("%s: run ends with %d, want %d", test.address, code, exitRunFailed)
		}
	}
}

func TestAddressFromEnvironment(t *testing.T) {
	t.Setenv("BERTH_ADDRESS", "")
	t.Setenv("CONTAINER_RUNTIME_ENDPOINT", "")
	want(t, "default", addressFromEnv(), "unix:///run/berth/berth.sock")
	t.Setenv("CONTAINER_RUNTIME_ENDPOINT", "unix:///b")
	want(t, "CONTAINER_RUNTIME_ENDPOINT", addressFromEnv(), "unix:///b")
	t.Setenv("BERTH_ADDRESS", "/a")
	want(t, "BERTH_ADDRESS", addressFromEnv(), "/a")
}

func TestCallErrorsAreReadable(t *testing.T) {
	s := node(t)
	// What the runtime itself says of a network or a plugin is not about reaching it.
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded} {
		s.Fail("ListPodSandbox", status.Error(code, "a plugin hangs"))
		if code, errOut := berthAt(s.Address, "pods"); code != 1 || errOut != "berth: list pods: a plugin hangs\n" {
			t.Errorf("exit code %d, errors %q", code, errOut)
		}
	}
	s.Fail("ListPodSandbox", status.Error(codes.Unimplemented, "unknown method"))
	wantFailure(t, s, 1, []string{"hint: the runtime behind this socket does not offer that"}, "pods")
}

func TestErrorsOfTheConnectionSayWhatToDo(t *testing.T) {
	for _, test := range []struct {
		serve func(net.Conn)
		hint  string
	}{
		{func(c net.Conn) { c.Close() }, "hint: the connection to berthd broke"},
		{func(net.Conn) {}, "hint: berthd did not answer in time"}, // accepts, and says nothing
	} {
		path := filepath.Join(t.TempDir(), "s.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				test.serve(c)
			}
		}()
		if code, errOut := berthAt(path, "--request-timeout", "500ms", "pods"); code != 1 || !strings.Contains(errOut, test.hint) {
			t.Errorf("exit code %d, errors %q, want %q", code, errOut, test.hint)
		}
		l.Close()
	}
}

func TestNamesThatMeanNothingOrTooMuch(t *testing.T) {
	s := node(t)
	wantFailure(t, s, 1, []string{`berth: no container "nope"`, "hint: `berth ps -a` lists all containers"}, "logs", "nope")
	wantFailure(t, s, 1, []string{`no pod "nope"`, "`berth pods`"}, "rmp", "nope")
	wantFailure(t, s, 1, []string{`no image "nope"`, "`berth images`"}, "rmi", "nope")
	wantFailure(t, s, 1, []string{`no container or pod "nope"`, "`berth pods`"}, "stop", "nope")
	wantFailure(t, s, 1, []string{
		`"proxy" may be any of 2 containers:`, "bbbb222222222  web-0/proxy", "cccc333333333  db/proxy", "hint: give more of the ID, or POD/NAME",
	}, "inspect", "proxy")
	wantFailure(t, s, 1, []string{`"aaaa" may be any of 2 containers:`, "aaaa000000000", "aaaa111111111"}, "inspect", "aaaa")
	wantFailure(t, s, 1, []string{`"1a2b" may be any of 2 pods:`, "1a2b999999990  prod/db"}, "inspect", "--type", "pod", "1a2b")
	for ref, id := range map[string]string{
		"nginx": webID, "web-0/nginx": webID, "db/proxy": dbSideID, "bbbb": sideID, oldWebID: oldWebID, "aaaa0": oldWebID,
	} {
		want(t, ref, wantOK(t, s, "inspect", "--template", "{{.status.id}}", ref), id+"\n")
	}
	for ref, id := range map[string]string{"db": dbPodID, "default/web-0": webPodID, "1a2b3": webPodID} {
		want(t, ref, wantOK(t, s, "inspect", "--type", "pod", "--template", "{{.status.id}}", ref), id+"\n")
	}
}

func TestUsageErrors(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{})
	wantFailure(t, s, 1, []string{"stop needs containers or pods", "hint: usage: berth stop CONTAINER|POD..."}, "stop")
	wantFailure(t, s, 1, []string{"exec needs a container and a command"}, "exec", "x")
	wantFailure(t, s, 1, []string{"unknown flag: --frob", "hint: `berth ps --help` lists the flags"}, "ps", "--frob")
	wantFailure(t, s, 1, []string{"--all and the names of containers exclude each other"}, "rm", "-a", "x")
	wantFailure(t, s, 1, []string{`unknown command "frob" for "berth"`}, "frob")
	wantFailure(t, s, 1, []string{"df takes no arguments", "hint: usage: berth df [flags]"}, "df", "x")
	wantFailure(t, s, 1, []string{"load takes one file at most"}, "load", "x", "y")
	wantFailure(t, s, 1, []string{"load takes either a file or --input"}, "load", "-i", "x", "y")
}
