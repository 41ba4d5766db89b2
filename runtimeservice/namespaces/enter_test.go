package namespaces

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

// listenIn listens inside of a pod and answers every connection with greeting.
func listenIn(t *testing.T, netns, address, greeting string) uint16 {
	t.Helper()
	var listener net.Listener
	err := EnterNetwork(netns, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, greeting)
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(number)
}

func TestDialLoopbackReachesThePod(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		pins := createIn(t, Request{Dir: t.TempDir(), Network: true})
		port := listenIn(t, pins[Network], address, "hello from "+address)
		conn, err := DialLoopback(context.Background(), pins[Network], port)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || string(got) != "hello from "+address {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
}

func TestDialDoesNotReachTheNode(t *testing.T) {
	pins := createIn(t, Request{Dir: t.TempDir(), Network: true})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	_, err = DialLoopback(context.Background(), pins[Network], port)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("got %v", err)
	}
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		if !strings.Contains(err.Error(), host) {
			t.Errorf("%q does not tell of %s", err, host)
		}
	}
}

func TestDialRefusesNames(t *testing.T) {
	if _, err := Dial(context.Background(), "/proc/self/ns/net", "tcp", "localhost:80"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

func TestEnterWhatIsNotThere(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "net")
	never := func() error { t.Error("ran outside of the pod"); return nil }
	if err := EnterNetwork(file, never); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := EnterNetwork(file, never); !errdefs.IsNotFound(err) {
		t.Errorf("no namespace: %v", err)
	}
	if err := EnterNetwork("/proc/self/ns/uts", never); !errdefs.IsNotFound(err) {
		t.Errorf("another kind: %v", err)
	}
}
