package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A writable layer that is packed and unpacked is what it was: whiteouts, opaque
// directories, links, modes and attributes.
func TestPackUnpack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(from, "etc"), 0o751))
	must(os.WriteFile(filepath.Join(from, "etc/motd"), []byte("hello"), 0o640))
	must(os.Chown(filepath.Join(from, "etc/motd"), 12, 34))
	must(unix.Chmod(filepath.Join(from, "etc/motd"), 0o4711))
	must(os.Link(filepath.Join(from, "etc/motd"), filepath.Join(from, "etc/other")))
	must(os.Symlink("/etc/motd", filepath.Join(from, "link")))
	must(unix.Mknod(filepath.Join(from, "gone"), unix.S_IFCHR, 0))
	must(unix.Mkfifo(filepath.Join(from, "fifo"), 0o600))
	must(os.Mkdir(filepath.Join(from, "new"), 0o700))
	must(unix.Setxattr(filepath.Join(from, "new"), opaqueXattr, []byte("y"), 0))
	var archive bytes.Buffer
	must(Pack(context.Background(), openDir(t, from), &archive, PackOptions{}))
	spec := Spec{Digest: digest.FromBytes(archive.Bytes()), Size: int64(archive.Len())}
	if _, err := Unpack(context.Background(), io.NopCloser(bytes.NewReader(archive.Bytes())), spec, openDir(t, to), nil); err != nil {
		t.Fatal(err)
	}
	var a, b unix.Stat_t
	must(unix.Lstat(filepath.Join(to, "etc/motd"), &a))
	must(unix.Lstat(filepath.Join(to, "etc/other"), &b))
	if a.Ino != b.Ino || a.Uid != 12 || a.Gid != 34 || a.Mode&0o7777 != 0o4711 || a.Size != 5 {
		t.Errorf("the file is %+v, its other name %+v", a, b)
	}
	if target, _ := os.Readlink(filepath.Join(to, "link")); target != "/etc/motd" {
		t.Errorf("the link leads to %q", target)
	}
	must(unix.Lstat(filepath.Join(to, "gone"), &a))
	if !IsWhiteout(&a) {
		t.Errorf("the whiteout is %+v", a)
	}
	must(unix.Lstat(filepath.Join(to, "fifo"), &a))
	if a.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("the pipe is %+v", a)
	}
	if !isOpaqueDir(openDir(t, filepath.Join(to, "new"))) {
		t.Error("the directory is not opaque")
	}
	if info, err := os.Stat(filepath.Join(to, "etc")); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("the directory is %v, %v", info, err)
	}
}

// What takes the place of a file while it is packed is not opened if it is a device: to open
// one is to use it. Here that would fail, since nothing drives it.
func TestPackOpensNoDevice(t *testing.T) {
	dir := t.TempDir()
	file, device := filepath.Join(dir, "file"), filepath.Join(dir, "device")
	if err := errors.Join(os.WriteFile(file, []byte("x"), 0o644), unix.Mknod(device, unix.S_IFCHR, int(unix.Mkdev(240, 77)))); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, device, unix.RENAME_EXCHANGE)
			}
		}
	}()
	replaced := 0
	for n := 0; n < 100_000 && replaced < 20; n++ {
		root, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = Pack(context.Background(), root, io.Discard, PackOptions{})
		root.Close()
		if errors.Is(err, errdefs.ErrUnavailable) {
			replaced++
		} else if err != nil {
			t.Errorf("pack: %v", err)
			break
		}
	}
	close(stop)
	<-stopped
	if replaced == 0 {
		t.Error("the race was never lost")
	}
}

func openDir(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
