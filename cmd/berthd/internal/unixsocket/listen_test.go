package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func mustListen(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestMode(t *testing.T) {
	defer unix.Umask(unix.Umask(0o177))
	path := filepath.Join(t.TempDir(), "new", "s.sock")
	l := mustListen(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != Mode {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays after Close: %v", err)
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	mustListen(t, path)
	_, err := Listen(context.Background(), path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.HasSuffix(err.Error(), fmt.Sprintf("with PID %d", os.Getpid())) {
		t.Fatalf("error is %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first listener was hurt: %v", err)
	}
	conn.Close()
}

// A listener that does not get to its connections is not a stale one.
func TestFullQueueIsInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := Listen(context.Background(), path); err == nil || !strings.Contains(err.Error(), "may be in use") {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket was removed: %v", err)
	}
}

func TestStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	mustListen(t, path)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestNotASocket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                     "is there and is not a socket",
		link:                     "is there and is not a socket",
		dir:                      "is there and is not a socket",
		filepath.Join(file, "s"): "not a directory",
	} {
		if _, err := Listen(context.Background(), path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v", path, err)
		}
	}
	if text, _ := os.ReadFile(file); string(text) != "keep" {
		t.Error("the file was changed")
	}
}
