package overlay

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	mappedUID = 200000
	mappedGID = 300000
)

// userNamespace is the path of one with those as its root.
func userNamespace(t *testing.T) string {
	t.Helper()
	needRoot(t)
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: mappedUID, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{HostID: mappedGID, Size: 65536}},
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

func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return [2]uint32{st.Uid, st.Gid}
}

// The same mount, as this kernel does it and as older ones need it.
func TestMappedLayers(t *testing.T) {
	for name, aside := range map[string]bool{"as this kernel can": false, "as older kernels can": true} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 3, 120} {
				m, base := writable(t, n)
				m.UserNS, m.aside = userNamespace(t), aside
				if err := os.Lchown(filepath.Join(m.Lower[0], "file0"), 7, 8); err != nil {
					t.Fatal(err)
				}
				before := mounts(t, base)
				if err := m.Do(); err != nil {
					t.Fatal(err)
				}
				if after := mounts(t, base); after != before+1 {
					t.Errorf("%d mounts became %d", before, after)
				}
				if got, want := owner(t, filepath.Join(m.Target, "file0")), [2]uint32{mappedUID + 7, mappedGID + 8}; got != want {
					t.Errorf("a file belongs to %d, want %d", got, want)
				}
				if got, want := owner(t, filepath.Join(m.Target, "all")), [2]uint32{mappedUID, mappedGID}; got != want {
					t.Errorf("root's file belongs to %d, want %d", got, want)
				}
				check(t, m, n)
				if got := owner(t, filepath.Join(m.Upper, "all")); got != [2]uint32{mappedUID, mappedGID} {
					t.Errorf("its copy belongs to %d", got)
				}
				if got := owner(t, filepath.Join(m.Lower[0], "all")); got != [2]uint32{0, 0} {
					t.Errorf("the layer's own file belongs to %d now", got)
				}
				if err := Unmount(m.Target); err != nil {
					t.Error(err)
				}
				if after := mounts(t, base); after != before {
					t.Errorf("%d mounts are left below %s", after-before, base)
				}
			}
		})
	}
}

// mounts counts those below dir.
func mounts(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), " "+dir)
}

func TestMappedRefuses(t *testing.T) {
	m, base := writable(t, 1)
	m.UserNS = filepath.Join(base, "none")
	if err := m.Do(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("without a user namespace: %v", err)
	}
	// A file system that cannot be mapped: proc.
	m.UserNS, m.Lower = userNamespace(t), []string{"/proc/sys/kernel"}
	if err := m.Do(); err == nil || !strings.Contains(err.Error(), "may not support") {
		t.Errorf("layer on a file system without ID mapping: %v", err)
	}
}

func TestProbeIDMap(t *testing.T) {
	userns := userNamespace(t)
	dir := filepath.Join(t.TempDir(), "probe")
	before := mounts(t, filepath.Dir(dir))
	for range 2 {
		if err := ProbeIDMap(dir, userns); err != nil {
			t.Error(err)
		}
	}
	if err := ProbeIDMap("/proc/nowhere", userns); err == nil {
		t.Error("a probe on proc succeeded")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the probe left its directory: %v", err)
	}
	if after := mounts(t, filepath.Dir(dir)); after != before {
		t.Errorf("%d mounts became %d", before, after)
	}
}
