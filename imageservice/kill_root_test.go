package imageservice

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/overlay"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// In a process with this variable the test binary is a daemon to kill: it pulls,
// mounts and removes for ever.
const (
	victimRoot   = "BERTH_TEST_VICTIM_ROOT"
	victimImages = "BERTH_TEST_VICTIM_IMAGES"
)

func TestMain(m *testing.M) {
	if image := os.Getenv(pullerImage); image != "" {
		bePuller(os.Getenv(victimRoot), image)
	}
	if root := os.Getenv(victimRoot); root != "" {
		beVictim(root, strings.Fields(os.Getenv(victimImages)))
	}
	os.Exit(m.Run())
}

func beVictim(root string, images []string) {
	s, err := New(Options{Root: filepath.Join(root, "root")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() { _ = s.Run(bg) }()
	for n := 0; ; n++ {
		for i, name := range images {
			id, err := pullImage(s, name)
			if err == nil {
				container := fmt.Sprint("c", i)
				err = s.MountRootfs(bg, container, id, filepath.Join(root, "mnt", container), "", "")
				if err == nil && n%2 == 0 {
					err = s.RemoveRootfs(bg, container)
				}
			}
			if err == nil {
				err = s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: name})
			}
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
	}
}

// TestKill kills a process that pulls, mounts and removes, at any instruction,
// and looks at what the next one finds.
func TestKill(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	var files []imagetest.Entry
	for i := range 200 {
		files = append(files, imagetest.File(fmt.Sprintf("d%d/f%d", i%9, i), strings.Repeat("k", i*10), 0o644))
	}
	shared := layerOf(files...)
	names := []string{
		push(t, r, "one", "1", imagetest.New(shared, layerOf(imagetest.File("which", "one", 0o644)))),
		push(t, r, "two", "1", imagetest.New(shared, layerOf(imagetest.File("which", "two", 0o644)))),
	}
	base := t.TempDir()
	t.Cleanup(func() {
		for i := range names {
			_ = overlay.Unmount(filepath.Join(base, "mnt", fmt.Sprint("c", i)))
		}
	})
	for range 25 {
		killVictim(t, base, names)
		s, err := New(Options{Root: filepath.Join(base, "root")})
		if err != nil {
			t.Fatal(err)
		}
		checkAfterKill(t, s, base, names)
		s.Close()
	}
}

func killVictim(t *testing.T, base string, names []string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimRoot+"="+base, victimImages+"="+strings.Join(names, " "))
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10*time.Millisecond + rand.N(120*time.Millisecond))
	if err := cmd.Process.Kill(); err != nil {
		t.Errorf("the victim ended by itself: %v", err)
	}
	_ = cmd.Wait()
	if out.Len() > 0 {
		t.Errorf("the victim says %s", out.String())
	}
}

// checkAfterKill looks at a store as it was left: what is listed works, the rest
// goes, and pulling works.
func checkAfterKill(t *testing.T, s *Service, base string, names []string) {
	t.Helper()
	if err := s.store.Sweep(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(s.store.Root(), "damaged")); err != nil || len(left) != 0 {
		t.Errorf("damaged: %v, %v", left, err)
	}
	ids, err := s.Rootfs(bg)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := s.RemoveRootfs(bg, id); err != nil {
			t.Error(err)
		}
	}
	for i, name := range names {
		target := filepath.Join(base, "mnt", fmt.Sprint("c", i))
		if mountsAt(t, target) != 0 {
			t.Errorf("%s is still mounted", target)
		}
		container := fmt.Sprint("check", i)
		for _, id := range []string{name, mustPull(t, s, name)} {
			if status(t, s, id) == nil {
				continue
			}
			if err := s.MountRootfs(context.Background(), container, id, target, "", ""); err != nil {
				t.Error(err)
				continue
			}
			if got, last := read(t, target, "which"), read(t, target, "d1/f199"); got != []string{"one", "two"}[i] || len(last) != 1990 {
				t.Errorf("%s holds %q and %d bytes", name, got, len(last))
			}
			if err := s.RemoveRootfs(bg, container); err != nil {
				t.Error(err)
			}
		}
		if err := s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: name}); err != nil {
			t.Error(err)
		}
	}
	expectEmpty(t, s)
}
