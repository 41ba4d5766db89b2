package imageservice

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/idmap"
)

// describeTree tells all that an image can keep of each file below root.
func describeTree(t *testing.T, root string) map[string]string {
	t.Helper()
	all, names := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		text := fmt.Sprintf("%o %d:%d %d.%d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			first, ok := names[st.Ino]
			if !ok {
				names[st.Ino], first = name, name
			}
			text += fmt.Sprintf(" %d %x of %s", st.Size, sha256.Sum256(data), first)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			text += fmt.Sprintf(" %d", st.Rdev)
		}
		for _, xattr := range []string{"user.test", "security.capability"} {
			value := make([]byte, 100)
			if n, err := unix.Lgetxattr(path, xattr, value); err == nil {
				text += fmt.Sprintf(" %s=%x", xattr, value[:n])
			}
		}
		all[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameTrees(t *testing.T, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s is %q, want %q", name, got[name], want[name])
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%s is there", name)
		}
	}
}

// fileCapability is that of a file with CAP_NET_RAW, as revision 2.
var fileCapability = []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func mustCommit(t *testing.T, s *Service, container string, o CommitOptions) Committed {
	t.Helper()
	got, err := s.Commit(t.Context(), container, o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A container of the new image has the same files as the one that it was made of; the image
// leaves the node, and is the same on another.
func TestCommit(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "commit", "1", changedImage()))
	root := mount(t, s, "c1", id)
	inDir(t, root, changeEverything+`
		mknod dev c 1 3; mknod disk b 7 0; mkfifo pipe; chown 12:34 etc/new; chmod 4711 etc/new
		truncate -s 20M sparse; printf end >> sparse
		mkdir "odd\\name"; touch "odd\\name/$(printf 'a\nb')"; chmod 750 .`)
	for name, value := range map[string][]byte{"user.test": []byte("value"), "security.capability": fileCapability} {
		if err := unix.Setxattr(filepath.Join(root, "etc/new"), name, value, 0); err != nil {
			t.Fatal(err)
		}
	}
	image := mustCommit(t, s, "c1", CommitOptions{Name: "example.com/new:1", Author: "me", Message: "why", Changes: []string{`CMD ["a"]`, "ENV A=1"}})
	want := describeTree(t, root)
	sameTrees(t, describeTree(t, mount(t, s, "c2", image.ID)), want)

	again := mustCommit(t, s, "c1", CommitOptions{Name: "again"})
	first, _ := s.lookup(image.ID)
	second, _ := s.lookup(again.ID)
	if a, b := first.Layers, second.Layers; a[len(a)-1] != b[len(b)-1] {
		t.Errorf("the same files made the layers %s and %s", a[len(a)-1], b[len(b)-1])
	}
	var archive bytes.Buffer
	if err := s.Save(bg, &archive, []string{"example.com/new:1"}, false); err != nil {
		t.Fatal(err)
	}
	other := newService(t)
	loaded, err := other.Load(bg, &archive, LoadOptions{})
	if err != nil || len(loaded) != 1 || loaded[0].ID != image.ID {
		t.Fatalf("loaded %+v, %v", loaded, err)
	}
	sameTrees(t, describeTree(t, mount(t, other, "c3", image.ID)), want)
}

func TestCommitDescribes(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	for _, docker := range []bool{false, true} {
		base := changedImage()
		base.Docker = docker
		base.Config.Config = ocispec.ImageConfig{Env: []string{"A=0", "B=0"}, Entrypoint: []string{"/e"}, Cmd: []string{"/c"}, StopSignal: "SIGQUIT"}
		mount(t, s, fmt.Sprintf("c-%t", docker), mustPull(t, s, push(t, r, "describes", fmt.Sprint(docker), base)))
		image := mustCommit(t, s, fmt.Sprintf("c-%t", docker), CommitOptions{
			Name: "described", Author: "me", Message: "why",
			Changes: []string{"env A=1 C='x y'", "USER 7", "WORKDIR sub", "LABEL k=v", "EXPOSE 80 53/udp", `VOLUME ["/data"]`, `ENTRYPOINT ["/new"]`},
		})
		img, err := s.lookup("described")
		if err != nil || img.ID.String() != image.ID || img.ManifestDigest != image.Digest {
			t.Fatalf("%+v, %v", img, err)
		}
		c := img.Config
		got, _ := json.Marshal(c.Config)
		want := `{"User":"7","ExposedPorts":{"53/udp":{},"80/tcp":{}},"Env":["A=1","B=0","C=x y"],"Entrypoint":["/new"],"Volumes":{"/data":{}},"WorkingDir":"/sub","Labels":{"k":"v"},"StopSignal":"SIGQUIT"}`
		if string(got) != want {
			t.Errorf("configuration %s, want %s", got, want)
		}
		if n := len(c.RootFS.DiffIDs); n != 3 || len(c.History) != n || c.Author != "me" {
			t.Errorf("%d layers, %d in the history, author %q", n, len(c.History), c.Author)
		}
		if last := c.History[len(c.History)-1]; last.Comment != "why" || last.Author != "me" || !strings.HasPrefix(last.CreatedBy, "berth commit; env A=1") {
			t.Errorf("history %+v", last)
		}
		src, _ := img.Source("")
		if got := src.Layers[2].MediaType; strings.Contains(got, "docker") != docker || strings.Contains(src.Manifest.MediaType, "docker") != docker {
			t.Errorf("the layer is a %s in a %s", got, src.Manifest.MediaType)
		}
	}
}

// What is in a user namespace of the node's 200000 is root's in the image.
func TestCommitOfUserNamespace(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "mapped", "1", changedImage()))
	root := filepath.Join(t.TempDir(), "mapped")
	if err := s.MountRootfs(bg, "c1", id, root, "", userNamespace(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.RemoveRootfs(bg, "c1"); err != nil {
			t.Error(err)
		}
	})
	inDir(t, root, `echo x > new; chown 200005:300006 new; echo y > raw; chown 200000:300000 raw; echo z > foreign; rm etc/a`)
	capability := append(append([]byte{1, 0, 0, 3}, fileCapability[4:]...), 0x40, 0x0d, 3, 0) // for 200000
	if err := unix.Setxattr(filepath.Join(root, "raw"), "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
	ids := idmap.Map{UIDs: idmap.Ranges{{Host: 200000, Length: 65536}}, GIDs: idmap.Ranges{{Host: 300000, Length: 65536}}}
	image := mustCommit(t, s, "c1", CommitOptions{Name: "mapped:2", WrittenOptions: WrittenOptions{IDs: ids}})
	plain := mount(t, s, "c2", image.ID)
	for name, want := range map[string]string{".": "755 0:0", "new": "644 5:6", "raw": "644 0:0", "foreign": "644 65534:65534", "etc": "755 0:0"} {
		if got := attributes(t, filepath.Join(plain, name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	value := make([]byte, 100)
	if n, err := unix.Getxattr(filepath.Join(plain, "raw"), "security.capability", value); err != nil || !bytes.Equal(value[:n], fileCapability) {
		t.Errorf("the capabilities are %x, %v", value[:n], err)
	}
}

func TestCommitRefuses(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	name := push(t, r, "refuses", "1", changedImage())
	root := mount(t, s, "c1", mustPull(t, s, name))
	inDir(t, root, "echo x > file")
	before := kept(t, s)
	late := errors.New("too late")
	for what, c := range map[string]struct {
		container string
		o         CommitOptions
		want      error
	}{
		"no container":     {"nobody", CommitOptions{Name: "a"}, errdefs.ErrNotFound},
		"a bad name":       {"c1", CommitOptions{Name: "A B"}, errdefs.ErrInvalidArgument},
		"a digest":         {"c1", CommitOptions{Name: "a@sha256:" + strings.Repeat("0", 64)}, errdefs.ErrInvalidArgument},
		"no instruction":   {"c1", CommitOptions{Name: "a", Changes: []string{"RUN x"}}, errdefs.ErrInvalidArgument},
		"nothing to set":   {"c1", CommitOptions{Name: "a", Changes: []string{"USER "}}, errdefs.ErrInvalidArgument},
		"an open quote":    {"c1", CommitOptions{Name: "a", Changes: []string{`LABEL a="b`}}, errdefs.ErrInvalidArgument},
		"no pair":          {"c1", CommitOptions{Name: "a", Changes: []string{`ENV a`}}, errdefs.ErrInvalidArgument},
		"it ran meanwhile": {"c1", CommitOptions{Name: "a", Standstill: func(ctx context.Context, f func(context.Context) error) error { return errors.Join(f(ctx), late) }}, late},
	} {
		if _, err := s.Commit(bg, c.container, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	inDir(t, root, "echo x > .wh.mark")
	if _, err := s.Commit(bg, "c1", CommitOptions{Name: "a"}); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), ".wh.mark") {
		t.Errorf("a name that is a mark: %v", err)
	}
	if after := kept(t, s); !slices.Equal(after, before) {
		t.Errorf("kept %q, before %q", after, before)
	}
	inDir(t, root, "rm .wh.mark")
	if err := s.RemoveImage(bg, &runtimeapi.ImageSpec{Image: name}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(bg, "c1", CommitOptions{Name: "a"}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("without its image: %v", err)
	}
}

// kept is all that the store has, and what it is writing.
func kept(t *testing.T, s *Service) []string {
	t.Helper()
	var all []string
	for _, img := range s.store.Images() {
		all = append(all, img.Refs()...)
	}
	for _, l := range s.store.Layers() {
		all = append(all, fmt.Sprint(l))
	}
	blobs, err := s.store.Content().List()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		all = append(all, b.Digest.String())
	}
	scratch, err := filepath.Glob(filepath.Join(s.opts.Root, "ingest", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(all, scratch...)
}
