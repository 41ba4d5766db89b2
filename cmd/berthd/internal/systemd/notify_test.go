package systemd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// manager listens as a service manager does.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func fromEnvironment(t *testing.T) *Notifier {
	t.Helper()
	n, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMessages(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@berth-notify-test-" + strconv.Itoa(os.Getpid())} {
		conn := manager(t, name)
		n := fromEnvironment(t)
		for _, step := range []struct {
			send func() error
			want string
		}{
			{func() error { return n.Ready("serving") }, "^READY=1\nSTATUS=serving$"},
			{n.Reloading, "^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+$"},
			{n.Stopping, "^STOPPING=1\nSTATUS=stopping$"},
		} {
			if err := step.send(); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, conn); !regexp.MustCompile(step.want).MatchString(got) {
				t.Errorf("%s: got %q, want %q", name, got, step.want)
			}
		}
		conn.Close()
		if n.Ready("") == nil {
			t.Errorf("%s: no error after the manager is gone", name)
		}
	}
}

func TestWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "1000")
	n := fromEnvironment(t)
	if err := errors.Join(n.Ready("x"), n.Reloading(), n.Stopping()); err != nil {
		t.Error(err)
	}
	n.KeepAlive(context.Background(), slog.New(slog.DiscardHandler), func(context.Context) error {
		t.Error("asked for a sign of life that nobody waits for")
		return nil
	}) // returns
}

// Children would otherwise speak in the daemon's name.
func TestEnvironmentIsTaken(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		t.Setenv(name, "1")
	}
	fromEnvironment(t)
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if value, ok := os.LookupEnv(name); ok {
			t.Errorf("%s=%s is still there", name, value)
		}
	}
}

func TestWatchdogOfAnotherProcess(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "1000")
	t.Setenv("WATCHDOG_PID", "1")
	if n := fromEnvironment(t); n.watchdog != 0 {
		t.Errorf("watchdog is %s", n.watchdog)
	}
}

func TestWatchdogThatIsNoNumber(t *testing.T) {
	for _, usec := range []string{"soon", "-1", "0"} {
		t.Setenv("WATCHDOG_USEC", usec)
		if _, err := FromEnvironment(); err == nil {
			t.Errorf("no error for %q", usec)
		}
	}
}

func TestSignsOfLifeOnlyWhileHealthy(t *testing.T) {
	conn := manager(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	n := fromEnvironment(t)
	if n.watchdog != 20*time.Millisecond {
		t.Fatalf("watchdog is %s", n.watchdog)
	}
	var sick atomic.Bool
	asked := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.KeepAlive(ctx, slog.New(slog.DiscardHandler), func(context.Context) error {
			if sick.Load() {
				select {
				case asked <- struct{}{}:
				case <-ctx.Done():
				}
				return errors.New("sick")
			}
			return nil
		})
	}()
	for range 3 {
		if got := receive(t, conn); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	sick.Store(true)
	<-asked // signs of life from before this are all in the socket's queue
	for conn.SetReadDeadline(time.Now().Add(time.Millisecond)) == nil {
		if _, err := conn.Read(make([]byte, 100)); err != nil {
			break
		}
	}
	<-asked
	<-asked
	conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	if size, err := conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes from a sick daemon", size)
	}
	cancel()
	<-done
}
