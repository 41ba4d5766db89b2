package imageservice

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/imageservice/idmap"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// changedImage has all that the tests of changes do something to, over two layers.
func changedImage() *imagetest.Image {
	base := layerOf(imagetest.Dir(".", 0o755), imagetest.Dir("etc", 0o755), imagetest.File("etc/a", "a", 0o644), imagetest.File("etc/b", "b", 0o644),
		imagetest.Dir("old", 0o755), imagetest.File("old/x", "x", 0o644), imagetest.Dir("quiet", 0o755), imagetest.File("quiet/f", "f", 0o644),
		imagetest.Dir("mode", 0o755), imagetest.Dir("gone", 0o755), imagetest.File("gone/f", "f", 0o644), imagetest.File("becomes", "file", 0o644),
		imagetest.File("hidden", "base", 0o644), imagetest.Dir("mnt", 0o755))
	// What the upper layer has removed the container adds.
	top := layerOf(imagetest.File(".wh.hidden", "", 0o644), imagetest.File("etc/c", "c", 0o644))
	return imagetest.New(base, top)
}

const changeEverything = `
	echo more >> etc/a; rm etc/b; echo new > etc/new
	rm -r old; mkdir old; echo y > old/y
	echo more >> quiet/f
	chmod 700 mode
	rm -r gone
	rm becomes; mkdir becomes; echo z > becomes/z
	echo again > hidden
	mkdir -p fresh/deep; ln -s /etc/a fresh/link; ln etc/c etc/c2; mkfifo fresh/deep/pipe
	echo temporary > tmp; rm tmp
	mkdir mnt/volume; echo x > mnt/volume/f`

var everythingChanged = []string{
	"changed /becomes", "added /becomes/z",
	"changed /etc", "changed /etc/a", "deleted /etc/b", "changed /etc/c", "added /etc/c2", "added /etc/new",
	"added /fresh", "added /fresh/deep", "added /fresh/deep/pipe", "added /fresh/link",
	"deleted /gone", "added /hidden", "changed /mode",
	"deleted /old", "added /old", "added /old/y",
	"changed /quiet/f",
}

func changesOf(t *testing.T, s *Service, container string, o WrittenOptions) []string {
	t.Helper()
	var got []string
	err := s.Changes(t.Context(), container, o, func(c Change) error {
		got = append(got, c.Kind+" "+c.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func inDir(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestChanges(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "changes", "1", changedImage()))
	root := mount(t, s, "c1", id)
	if got := changesOf(t, s, "c1", WrittenOptions{}); len(got) != 0 {
		t.Errorf("nothing was done: %q", got)
	}
	inDir(t, root, changeEverything)
	o := WrittenOptions{Mounts: []string{"/mnt/volume/", "/proc"}}
	if got := changesOf(t, s, "c1", o); !slices.Equal(got, everythingChanged) {
		t.Errorf("changes %q, want %q", got, everythingChanged)
	}
	if err := s.UnmountRootfs(bg, "c1"); err != nil {
		t.Fatal(err)
	}
	if got := changesOf(t, s, "c1", o); !slices.Equal(got, everythingChanged) {
		t.Errorf("changes of what is not mounted %q, want %q", got, everythingChanged)
	}
	if err := s.Changes(bg, "nobody", o, nil); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("no such container: %v", err)
	}
}

// A directory of which a layer has only a file is what a layer below says; so it is in the
// writable layer from the beginning, and no change.
func TestChangesOfUserNamespaceAndImpliedDirectories(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	base := layerOf(imagetest.Dir(".", 0o755), imagetest.Dir("home", 0o700).Owned(1000, 1001), imagetest.Dir("dir", 0o755).Owned(5, 5))
	id := mustPull(t, s, push(t, r, "implied", "1", imagetest.New(base, layerOf(imagetest.File("home/f", "f", 0o644)))))
	root := filepath.Join(t.TempDir(), "mapped")
	if err := s.MountRootfs(bg, "c1", id, root, "", userNamespace(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.RemoveRootfs(bg, "c1"); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chown(filepath.Join(root, "dir"), 200005, 300006); err != nil {
		t.Fatal(err)
	}
	o := WrittenOptions{IDs: idmap.Map{UIDs: idmap.Ranges{{Host: 200000, Length: 65536}}, GIDs: idmap.Ranges{{Host: 300000, Length: 65536}}}}
	if got := changesOf(t, s, "c1", o); !slices.Equal(got, []string{"changed /dir"}) {
		t.Errorf("changes %q", got)
	}
	if err := os.Chown(filepath.Join(root, "dir"), 200005, 300005); err != nil {
		t.Fatal(err)
	}
	if got := changesOf(t, s, "c1", o); len(got) != 0 {
		t.Errorf("nothing is different: %q", got)
	}
}
