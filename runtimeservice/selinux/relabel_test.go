package selinux

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const containerLabel = "system_u:object_r:container_file_t:s0:c1,c2"

func labelOf(t *testing.T, path string) string {
	t.Helper()
	value := make([]byte, 256)
	n, err := unix.Lgetxattr(path, labelAttribute, value)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	if err != nil {
		t.Fatalf("label of %s: %v", path, err)
	}
	return strings.TrimRight(string(value[:n]), "\x00")
}

// volume makes a directory that can be mounted on and keeps labels.
func volume(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("volume", dir, "tmpfs", 0, ""); err != nil {
		t.Fatalf("mount a tmpfs, as root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func write(t *testing.T, path string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRelabel(t *testing.T) {
	dir := volume(t)
	outside := write(t, filepath.Join(volume(t), "outside"))
	file, deep := write(t, dir+"/file"), write(t, dir+"/a/b/c/deep")
	link, loop := dir+"/link", dir+"/a/loop"
	if err := errors.Join(os.Symlink(outside, link), os.Symlink(dir, loop), unix.Mkfifo(dir+"/fifo", 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Relabel(t.Context(), dir, containerLabel); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{dir, file, deep, link, loop, dir + "/a/b", dir + "/fifo"} {
			same(t, p, labelOf(t, p), containerLabel)
		}
		same(t, "what a link leads to", labelOf(t, outside), "")
	}
	if err := Relabel(t.Context(), file, containerLabel+"0"); err != nil {
		t.Fatal(err)
	}
	same(t, "a file alone", labelOf(t, file), containerLabel+"0")
	same(t, "its directory", labelOf(t, dir), containerLabel)
	if err := Relabel(t.Context(), loop+"/file", containerLabel); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
}

func TestRelabelStaysOnTheVolume(t *testing.T) {
	dir, other := volume(t), volume(t)
	secret := write(t, other+"/secret")
	write(t, dir+"/first")
	if err := os.Mkdir(dir+"/mounted", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(other, dir+"/mounted", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir+"/mounted", unix.MNT_DETACH) })
	if err := Relabel(t.Context(), dir, containerLabel); err != nil {
		t.Fatal(err)
	}
	same(t, "the volume", labelOf(t, dir+"/first"), containerLabel)
	same(t, "what is mounted in it", labelOf(t, secret), "")
	same(t, "where it is mounted", labelOf(t, other), "")
}

func TestRelabelRefuses(t *testing.T) {
	for _, path := range []string{
		"/", "/etc", "/etc/hosts", "/etc/kubernetes/pki", "/usr/", "/usr/lib/x", "/proc/1", "/sys/fs/cgroup", "/dev/shm", "/var", "/home", "/tmp",
		"/mnt", "/root", "/var/lib", "/var/lib/kubelet", "/var/lib/../..", "/var/lib/x/../../../etc/passwd", "relative", "",
	} {
		if err := Relabel(t.Context(), path, containerLabel); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, path := range []string{"/var/lib/kubelet/pods/u/volumes/x", "/mnt/data", "/etcetera/x"} {
		if err := checkPath(path); err != nil {
			t.Error(err)
		}
	}
	if err := Relabel(t.Context(), filepath.Join(volume(t), "missing"), containerLabel); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestRelabelIsBounded(t *testing.T) {
	dir := volume(t)
	if err := os.MkdirAll(dir+strings.Repeat("/d", maxDepth+2), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Relabel(t.Context(), dir, containerLabel); !errdefs.IsResourceExhausted(err) {
		t.Errorf("directories within each other: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Relabel(ctx, dir, containerLabel); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

func TestRelabelWithoutLabels(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("proc", dir, "proc", 0, ""); err != nil {
		t.Fatalf("mount proc, as root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := Relabel(t.Context(), dir, containerLabel); err != nil {
		t.Errorf("a file system that keeps no labels: %v", err)
	}
}
