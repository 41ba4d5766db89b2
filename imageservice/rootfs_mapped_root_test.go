package imageservice

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"golang.org/x/sys/unix"
)

// userNamespace is the path of a user namespace whose root is 200000 on the node,
// and its group 300000.
func userNamespace(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: 200000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{HostID: 300000, Size: 65536}},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "ns/user")
}

func attributes(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

func TestRootfsOfAUserNamespace(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	base := layerOf(imagetest.Dir(".", 0o755), imagetest.Dir("home", 0o755), imagetest.Dir("home/app", 0o700).Owned(1000, 1001),
		imagetest.Dir("home/app/sub", 0o770).Owned(1000, 1002), imagetest.File("f", "base", 0o640).Owned(5, 6))
	top := layerOf(imagetest.File("home/app/sub/y", "2", 0o644))
	id := mustPull(t, s, push(t, r, "mapped", "1", imagetest.New(base, top)))
	plain := mount(t, s, "c1", id)
	root := filepath.Join(t.TempDir(), "mapped")
	if err := s.MountRootfs(bg, "c2", id, root, "", userNamespace(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.RemoveRootfs(bg, "c2"); err != nil {
			t.Error(err)
		}
	})
	for name, want := range map[string]string{
		".": "755 200000:300000", "home": "755 200000:300000", "home/app": "700 201000:301001",
		"home/app/sub": "770 201000:301002", "home/app/sub/y": "644 200000:300000", "f": "640 200005:300006",
	} {
		if got := attributes(t, filepath.Join(root, name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "f"), []byte("written"), 0); err != nil {
		t.Fatal(err)
	}
	if got := attributes(t, filepath.Join(s.store.Upper("c2"), "f")); got != "640 200005:300006" {
		t.Errorf("the copy of a file is %s", got)
	}
	// The same layers, for a container without one.
	if got := attributes(t, filepath.Join(plain, "f")); got != "640 5:6" || read(t, plain, "f") != "base" {
		t.Errorf("the file of another container is %s", got)
	}
	// Nothing is copied: the writable layer holds directories and the one file.
	if got := read(t, s.store.Upper("c2"), "home/app/sub/y"); got == "2" {
		t.Error("a file that nobody wrote was copied")
	}
}

func TestEmptyRootfsOfAUserNamespace(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "scratch", "1", imagetest.New()))
	root := filepath.Join(t.TempDir(), "mapped")
	if err := s.MountRootfs(bg, "c1", id, root, "", userNamespace(t)); err != nil {
		t.Fatal(err)
	}
	if got := attributes(t, root); got != "755 200000:300000" {
		t.Errorf("the root is %s", got)
	}
	if err := s.RemoveRootfs(bg, "c1"); err != nil {
		t.Error(err)
	}
}

func TestProbeUserNamespaces(t *testing.T) {
	s := newService(t)
	if err := s.ProbeUserNamespaces(userNamespace(t)); err != nil {
		t.Error(err)
	}
	if err := s.ProbeUserNamespaces("/proc/self/ns/nothing"); err == nil {
		t.Error("a probe without a user namespace succeeded")
	}
}
