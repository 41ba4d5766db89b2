package imageservice

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/overlay"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// needRoot fails where the test cannot do what it is for: a skip would count as
// a pass.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
}

func newService(t *testing.T, change ...func(*Options)) *Service {
	t.Helper()
	needRoot(t)
	o := Options{Root: filepath.Join(t.TempDir(), "root"), RetryBackoff: time.Millisecond, StallTimeout: 10 * time.Second}
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func newRegistry(t *testing.T) *imagetest.Registry {
	t.Helper()
	r, err := imagetest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func push(t *testing.T, r *imagetest.Registry, repository, tag string, i *imagetest.Image) string {
	t.Helper()
	name, err := r.Push(repository, tag, i)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func pullImage(s *Service, name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return s.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: name}})
}

func mustPull(t *testing.T, s *Service, name string) string {
	t.Helper()
	id, err := pullImage(s, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// mount mounts a root file system and unmounts it at the test's end.
func mount(t *testing.T, s *Service, container, image string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), container, "rootfs")
	t.Cleanup(func() {
		if err := overlay.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	if err := s.MountRootfs(context.Background(), container, image, target, "", ""); err != nil {
		t.Fatal(err)
	}
	return target
}

func TestPullMountRunRemove(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	box, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	id := mustPull(t, s, push(t, r, "test/busybox", "1", box))
	if id != box.ID() {
		t.Fatalf("image ID %s, want %s", id, box.ID())
	}
	root := mount(t, s, "c1", id)
	out, err := exec.Command("chroot", root, "/bin/sh", "-c", "echo it runs > /tmp/out; cat /tmp/out; stat -c %a /tmp").CombinedOutput()
	if err != nil || string(out) != "it runs\n1777\n" {
		t.Fatalf("%v: %s", err, out)
	}
	if err := s.RemoveRootfs(context.Background(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: id}); err != nil {
		t.Fatal(err)
	}
	if left := s.store.Layers(); len(left) != 0 {
		t.Fatalf("layers left: %v", left)
	}
}
