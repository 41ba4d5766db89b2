package spec

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// imageTree is a mounted image with links of all kinds.
func imageTree(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "image")
	must(t, os.MkdirAll(filepath.Join(root, "d/inner"), 0o755))
	writeFile(t, filepath.Join(root, "d/file"), "x")
	writeFile(t, filepath.Join(filepath.Dir(root), "outside"), "secret")
	for name, target := range map[string]string{
		"relative": "d/inner", "absolute": "/d/inner", "d/up": "../d/file", "out": "../outside", "d/out": "../../outside",
		"absout": "/../outside", "loop": "loop", "dangling": "nowhere", "through": "relative/../inner",
	} {
		must(t, os.Symlink(target, filepath.Join(root, name)))
	}
	return root
}

func TestSubPath(t *testing.T) {
	root := imageTree(t)
	for sub, want := range map[string]string{
		"": "", ".": "", "d": "/d", "d/": "/d", "d/file": "/d/file", "relative": "/d/inner", "absolute": "/d/inner",
		"d/up": "/d/file", "d/inner/../file": "/d/file", "through": "/d/inner",
	} {
		got, err := subPath(root, sub)
		if err != nil || got != root+want {
			t.Errorf("%q is %q, %v", sub, got, err)
		}
	}
	for sub, kind := range map[string]error{
		"out": errdefs.ErrInvalidArgument, "d/out": errdefs.ErrInvalidArgument, "absout": errdefs.ErrInvalidArgument,
		"loop": errdefs.ErrInvalidArgument, "dangling": errdefs.ErrNotFound, "absent": errdefs.ErrNotFound,
		"d/file/x": errdefs.ErrNotFound, "d/absent/x": errdefs.ErrNotFound,
	} {
		got, err := subPath(root, sub)
		if !errors.Is(err, kind) || got != "" {
			t.Errorf("%q is %q, %v", sub, got, err)
		}
	}
}

func TestImageMounts(t *testing.T) {
	root := imageTree(t)
	in := testInput(t)
	in.Container.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/host", HostPath: root},
		{ContainerPath: "/model/", Image: &runtimeapi.ImageSpec{Image: "name", UserSpecifiedImage: "name"}, ImageSubPath: "relative"},
	}
	in.ImageMounts = map[int]ImageMount{1: {ID: "sha256:1", Root: root}}
	s, resolved := mustBuild(t, in)
	m := mountAt(t, s.Mounts, "/model")
	wantEqual(t, "source", m.Source, root+"/d/inner")
	for _, o := range []string{"ro", "nosuid", "nodev"} {
		if !slices.Contains(m.Options, o) {
			t.Errorf("options %v lack %s", m.Options, o)
		}
	}
	shown := resolved.Mounts[1]
	wantEqual(t, "ID", shown.Image.Image, "sha256:1")
	wantEqual(t, "digest", shown.Image.ImageRef, "sha256:1")
	wantEqual(t, "sub-path", shown.ImageSubPath, "relative")
	wantEqual(t, "name", shown.Image.UserSpecifiedImage, "name")
	wantEqual(t, "host path", shown.HostPath, "")
	wantEqual(t, "read-only", shown.Readonly, true)
	wantEqual(t, "the request's own", in.Container.Mounts[1].Image.Image, "name")

	in.Container.Mounts[1].ImageSubPath = "absent"
	_, _, err := Build(t.Context(), in)
	if !errors.Is(err, errdefs.ErrNotFound) || !errors.Is(err, crierrors.ErrImageVolumeMountFailed) || !strings.Contains(err.Error(), `config.mounts[1].image_sub_path: "absent"`) {
		t.Errorf("a sub-path that is not there: %v", err)
	}
}

func TestMountOptions(t *testing.T) {
	dir := t.TempDir()
	in := testInput(t)
	in.Container.Mounts = []*runtimeapi.Mount{
		{ContainerPath: "/x", HostPath: dir, Readonly: true, MountOptions: []string{"noexec", "nosuid", "noexec"}},
		{ContainerPath: "/y", HostPath: dir},
	}
	s, _ := mustBuild(t, in)
	wantEqual(t, "options", strings.Join(mountAt(t, s.Mounts, "/x").Options, ","), "rbind,rprivate,ro,noexec,nosuid")
	wantEqual(t, "options without any", strings.Join(mountAt(t, s.Mounts, "/y").Options, ","), "rbind,rprivate,rw")
}

func TestImageVolumes(t *testing.T) {
	image := func(paths ...string) *ocispec.Image {
		i := &ocispec.Image{}
		i.Config.Volumes = map[string]struct{}{}
		for _, p := range paths {
			i.Config.Volumes[p] = struct{}{}
		}
		return i
	}
	c := &runtimeapi.ContainerConfig{Mounts: []*runtimeapi.Mount{{ContainerPath: "/covered/"}, {ContainerPath: "/parent"}}}
	got, err := ImageVolumes(c, image("/data", "relative/x", "/data/", "/covered", "/parent/sub", "/parental", "/dev/x"))
	if want := []string{"/data", "/dev/x", "/parental", "/relative/x"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("volumes %q, %v", got, err)
	}
	for _, bad := range []string{"/", "", "/proc", "/proc/self/attr", "/sys", "/sys/fs", "/dev", "/x/../proc", "/a\x00"} {
		if got, err := ImageVolumes(c, image("/ok", bad)); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q gives %q, %v", bad, got, err)
		}
	}
	many := image()
	for i := range maxImageVolumes + 1 {
		many.Config.Volumes["/v"+strings.Repeat("x", i)] = struct{}{}
	}
	if _, err := ImageVolumes(c, many); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("too many: %v", err)
	}
}
