package podfiles

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// fakeMounter remembers what is mounted.
type fakeMounter struct {
	mounted map[string]bool
	fail    error
}

func (m *fakeMounter) MountTmpfs(path string, _ Owner, _ string) error {
	if m.fail != nil {
		return m.fail
	}
	m.mounted[path] = true
	return nil
}

func (m *fakeMounter) Unmount(path string) error {
	delete(m.mounted, path)
	return nil
}

func TestWriteAndRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pod")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := &fakeMounter{mounted: map[string]bool{}}
	if err := Write(dir, Content{ResolvConf: []byte("nameserver 10.0.0.10\n"), Hostname: []byte("web\n"), Shm: true}, m); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{In(dir).ResolvConf: "nameserver 10.0.0.10\n", In(dir).Hostname: "web\n"} {
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", path, got, err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o644 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	if !m.mounted[In(dir).Shm] {
		t.Error("shm is not mounted")
	}
	for range 2 {
		if err := Remove(dir, m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) || len(m.mounted) != 0 {
		t.Errorf("left: %v, mounts %v", err, m.mounted)
	}
}

func TestRemoveAfterAFailedWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pod")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	m := &fakeMounter{mounted: map[string]bool{}, fail: boom}
	if err := Write(dir, Content{Shm: true}, m); !errors.Is(err, boom) {
		t.Fatalf("error is %v", err)
	}
	if err := Remove(dir, m); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("directory is left: %v", err)
	}
}

func TestRemoveLeavesWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir, &fakeMounter{}); err == nil {
		t.Error("no error for a directory with something else in it")
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}
