package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
}

// layers makes n lower directories, topmost first, each with a file of its own
// and one that all have.
func layers(t *testing.T, base string, n int) []string {
	t.Helper()
	var dirs []string
	for i := range n {
		dir := filepath.Join(base, "layers", strings.Repeat("long-", 12)+fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{fmt.Sprint("file", i), "all"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(fmt.Sprint(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs
}

func writable(t *testing.T, n int) (Mount, string) {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	m := Mount{Lower: layers(t, base, n), Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"), Target: filepath.Join(base, "target")}
	for _, dir := range []string{m.Upper, m.Work, m.Target} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := Unmount(m.Target); err != nil {
			t.Error(err)
		}
	})
	return m, base
}

// check looks at a mount of n layers from inside, and writes to it.
func check(t *testing.T, m Mount, n int) {
	t.Helper()
	for name, want := range map[string]string{"all": "0", fmt.Sprint("file", n-1): fmt.Sprint(n - 1), "file0": "0"} {
		got, err := os.ReadFile(filepath.Join(m.Target, name))
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", name, got, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(m.Target, "all"), []byte("new"), 0o644); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(filepath.Join(m.Upper, "all")); err != nil || string(got) != "new" {
		t.Errorf("upper holds %q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(m.Lower[0], "all")); err != nil || string(got) != "0" {
		t.Errorf("lower holds %q, %v", got, err)
	}
}

func TestManyLayers(t *testing.T) {
	for _, n := range []int{1, 3, 128, MaxLayers} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			m, _ := writable(t, n)
			if err := m.Do(); err != nil {
				t.Fatal(err)
			}
			check(t, m, n)
		})
	}
}

// TestOldAPI mounts the way that kernels before 6.8 need.
func TestOldAPI(t *testing.T) {
	for _, n := range []int{1, 128} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			m, _ := writable(t, n)
			h, err := m.open()
			if err != nil {
				t.Fatal(err)
			}
			defer h.close()
			if err := h.mountOld(m.Target); err != nil {
				t.Fatal(err)
			}
			check(t, m, n)
		})
	}
	t.Run("too many", func(t *testing.T) {
		m, _ := writable(t, MaxLayers)
		h, err := m.open()
		if err != nil {
			t.Fatal(err)
		}
		defer h.close()
		if err := h.mountOld(m.Target); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Fatalf("error %v, want ErrInvalidArgument", err)
		}
	})
}

func TestReadOnly(t *testing.T) {
	m, _ := writable(t, 2)
	m.Upper, m.Work = "", ""
	if err := m.Do(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Target, "x"), nil, 0o644); err == nil {
		t.Fatal("can be written")
	}
}

func TestRefuses(t *testing.T) {
	m, base := writable(t, 1)
	for name, change := range map[string]func(*Mount){
		"no layers":       func(m *Mount) { m.Lower = nil },
		"too many layers": func(m *Mount) { m.Lower = make([]string, MaxLayers+1) },
	} {
		bad := m
		change(&bad)
		if err := bad.Do(); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: error %v, want ErrInvalidArgument", name, err)
		}
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(m.Lower[0], link); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Mount){
		"absent layer":  func(m *Mount) { m.Lower = []string{filepath.Join(base, "absent")} },
		"layer is link": func(m *Mount) { m.Lower = []string{link} },
		"absent upper":  func(m *Mount) { m.Upper = filepath.Join(base, "absent") },
		"absent target": func(m *Mount) { m.Target = filepath.Join(base, "absent") },
	} {
		bad := m
		change(&bad)
		if err := bad.Do(); err == nil {
			t.Errorf("%s: mounted", name)
		}
	}
	if mounted, err := Mounted(m.Target); err != nil || mounted {
		t.Errorf("mounted %v, %v", mounted, err)
	}
}

func TestMountedAndUnmount(t *testing.T) {
	m, base := writable(t, 2)
	is := func(want bool) {
		t.Helper()
		if mounted, err := Mounted(m.Target); err != nil || mounted != want {
			t.Errorf("mounted %v, %v, want %v", mounted, err, want)
		}
	}
	is(false)
	if err := m.Do(); err != nil {
		t.Fatal(err)
	}
	is(true)
	// Another on top, and one that is busy.
	busy, err := os.Open(filepath.Join(m.Target, "all"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	again := Mount{Lower: m.Lower, Target: m.Target}
	for range 2 {
		if err := again.Do(); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := Unmount(m.Target); err != nil {
			t.Fatal(err)
		}
		is(false)
	}
	if err := Unmount(filepath.Join(base, "absent", "deeper")); err != nil {
		t.Error(err)
	}
}
