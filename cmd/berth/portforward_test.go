package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

func TestParseForward(t *testing.T) {
	for arg, want := range map[string]string{
		"80":                "localhost 80 80",
		"8080:80":           "localhost 8080 80",
		":80":               "localhost 0 80",
		"0:80":              "localhost 0 80",
		"127.0.0.2:8080:80": "127.0.0.2 8080 80",
		"0.0.0.0::80":       "0.0.0.0 0 80",
		"[::1]:8080:80":     "::1 8080 80",
	} {
		address, local, remote, err := parseForward(arg)
		if got := fmt.Sprint(address, " ", local, " ", remote); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", arg, got, err, want)
		}
	}
	for _, arg := range []string{"", "x", "80:0", "80:x", "70000:80", "host:80:80", "1:2:3:4", "[::1]:80:", "-1:80"} {
		if address, local, remote, err := parseForward(arg); err == nil {
			t.Errorf("%s: taken as %s %d %d", arg, address, local, remote)
		}
	}
}

func TestPortForward(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	inv := begin(t, s, nil, "port-forward", "pod", "127.0.0.1::80", "127.0.0.2::443", "127.0.0.1::1")
	addresses := map[string]string{}
	find := regexp.MustCompile(`Forwarding from (127\.0\.0\.\d:\d+) -> (\d+)\n`)
	eventually(t, "the third port", func() bool {
		for _, m := range find.FindAllStringSubmatch(inv.out.String(), -1) {
			addresses[m[2]] = m[1]
		}
		return len(addresses) == 3
	})
	for _, port := range []string{"80", "443", "80"} {
		conn, err := net.Dial("tcp", addresses[port])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(conn, "ping")
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || line != port+" ping\n" {
			t.Errorf("port %s answers %q, %v", port, line, err)
		}
		conn.Close()
	}
	conn, err := net.Dial("tcp", addresses["1"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
		t.Errorf("a refused port answers %q", line)
	}
	eventually(t, "the error", func() bool {
		return strings.Contains(inv.err.String(), "port 1: ") && strings.Contains(inv.err.String(), "connection refused")
	})
	// What a connection does is no matter to the next one.
	again, err := net.Dial("tcp", addresses["80"])
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	fmt.Fprintln(again, "still there?")
	if err := again.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(again); err != nil || string(all) != "80 still there?\n" {
		t.Errorf("got %q, %v", all, err)
	}
	inv.cancel()
	if code := inv.wait(); code != 0 {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
}

func TestPortForwardErrors(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	wantFailure(t, s, 1, []string{`no pod "nope"`, "`berth pods`"}, "port-forward", "nope", "80")
	wantFailure(t, s, 1, []string{`forward "x:80": "x" is not a port`}, "port-forward", "pod", "x:80")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantFailure(t, s, 1, []string{"forward to port 80: listen tcp", "address already in use"}, "port-forward", "pod", l.Addr().String()+":80")
}
