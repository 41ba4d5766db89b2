package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/tree"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// small makes an image with one small layer that holds text.
func small(text string) *imagetest.Image {
	return imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.Dir(".", 0o755), imagetest.File("text", text, 0o644)), imagetest.Gzip))
}

func status(t *testing.T, s *Service, name string) *runtimeapi.Image {
	t.Helper()
	resp, err := s.ImageStatus(context.Background(), &runtimeapi.ImageSpec{Image: name}, false)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Image
}

func TestNamesAndStatus(t *testing.T) {
	s, r := newService(t, func(o *Options) { o.Pinned = []string{"127.0.0.1*/infra/*"} }), newRegistry(t)
	i := small("a")
	i.Config.Config = ocispec.ImageConfig{User: "1000:1000", Env: []string{"A=b"}, WorkingDir: "/w"}
	i.Annotations = map[string]string{"org.opencontainers.image.title": "small"}
	name := push(t, r, "infra/small", "v1", i)
	repository, _, _ := strings.Cut(name, ":v1")
	digestName := repository + "@" + i.Digest().String()
	id := mustPull(t, s, name)
	for _, called := range []string{name, digestName, repository + ":v1@" + i.Digest().String(), id, strings.TrimPrefix(id, "sha256:"), id[:19], id[7:19]} {
		img := status(t, s, called)
		if img == nil {
			t.Errorf("%q is not found", called)
			continue
		}
		if img.Id != id || !slices.Equal(img.RepoTags, []string{name}) || !slices.Equal(img.RepoDigests, []string{digestName}) {
			t.Errorf("%q is %v", called, img)
		}
	}
	img := status(t, s, id)
	if img.GetUid().GetValue() != 1000 || img.Username != "" || !img.Pinned || img.Size < 4096 {
		t.Errorf("%v", img)
	}
	if img.Spec.Annotations["org.opencontainers.image.title"] != "small" || img.Spec.UserSpecifiedImage != name {
		t.Errorf("%v", img.Spec)
	}
	for _, called := range []string{repository, repository + ":v2", "small", "sha256:" + strings.Repeat("0", 64), "127.0.0.1:1/infra/small:v1", "UPPER case?"} {
		if img := status(t, s, called); img != nil {
			t.Errorf("%q is %v", called, img)
		}
	}
	if _, err := s.ImageStatus(context.Background(), &runtimeapi.ImageSpec{}, false); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("empty name: %v", err)
	}
	checkVerbose(t, s, id)
	gotID, config, err := s.Image(context.Background(), id[7:15])
	if err != nil || gotID != id || config.Config.WorkingDir != "/w" {
		t.Errorf("%s, %v, %v", gotID, config, err)
	}
	if _, _, err := s.Image(context.Background(), "absent"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}

func checkVerbose(t *testing.T, s *Service, id string) {
	t.Helper()
	resp, err := s.ImageStatus(context.Background(), &runtimeapi.ImageSpec{Image: id}, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		ImageSpec ocispec.Image      `json:"imageSpec"`
		Layers    []map[string]any   `json:"layers"`
		Manifest  string             `json:"manifestDigest"`
		Other     map[string]float64 `json:"-"`
	}
	if err := json.Unmarshal([]byte(resp.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	if info.ImageSpec.Config.Env[0] != "A=b" || len(info.Layers) != 1 || info.Manifest == "" {
		t.Errorf("%+v", info)
	}
}

func TestUser(t *testing.T) {
	for in, want := range map[string]struct {
		uid  int64
		name string
	}{
		"": {-1, ""}, "0": {0, ""}, "1000": {1000, ""}, "1000:0": {1000, ""}, "app": {-1, "app"}, "app:app": {-1, "app"},
		"2147483647": {2147483647, ""}, "2147483648": {-1, "2147483648"}, "4294967296": {-1, "4294967296"},
		"-1": {-1, "-1"}, "+5": {-1, "+5"}, "18446744073709551616": {-1, "18446744073709551616"}, " 5": {-1, " 5"},
	} {
		uid, name := user(in)
		got := int64(-1)
		if uid != nil {
			got = uid.Value
		}
		if got != want.uid || name != want.name {
			t.Errorf("%q: %d, %q, want %d, %q", in, got, name, want.uid, want.name)
		}
	}
}

func TestListAndRetag(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	one, two := small("one"), small("two")
	name := push(t, r, "app", "latest", one)
	first := mustPull(t, s, name)
	push(t, r, "app", "latest", two)
	second := mustPull(t, s, name)
	list, err := s.ListImages(context.Background(), nil)
	if err != nil || len(list) != 2 || first == second {
		t.Fatalf("%v, %v", list, err)
	}
	if img := status(t, s, name); img.Id != second {
		t.Errorf("the tag is %s, want %s", img.Id, second)
	}
	if img := status(t, s, first); len(img.RepoTags) != 0 || len(img.RepoDigests) != 1 {
		t.Errorf("the old image is %v", img)
	}
	for filter, want := range map[string]int{name: 1, first: 1, "absent": 0} {
		list, err := s.ListImages(context.Background(), &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: filter}})
		if err != nil || len(list) != want {
			t.Errorf("%q: %v, %v", filter, list, err)
		}
	}
}

func TestRemoveByAnyName(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i := small("x")
	a, b := push(t, r, "one", "a", i), push(t, r, "two", "b", i)
	id := mustPull(t, s, a)
	if again := mustPull(t, s, b); again != id {
		t.Fatalf("%s and %s", id, again)
	}
	if img := status(t, s, id); len(img.RepoTags) != 2 {
		t.Fatalf("%v", img)
	}
	for range 2 {
		if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: b}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{a, b, id} {
		if img := status(t, s, name); img != nil {
			t.Errorf("%s is still there: %v", name, img)
		}
	}
	expectEmpty(t, s)
}

// expectEmpty looks whether anything of an image or of an attempt is left.
func expectEmpty(t *testing.T, s *Service) {
	t.Helper()
	for _, dir := range []string{"images", "layers", "ingest", "rootfs", "damaged"} {
		list, err := os.ReadDir(filepath.Join(s.store.Root(), dir))
		if err != nil || len(list) != 0 {
			t.Errorf("left in %s: %v, %v", dir, list, err)
		}
	}
	if u := s.store.LayerUsage(); u.Bytes != 0 || u.Inodes != 0 {
		t.Errorf("usage %+v", u)
	}
}

func TestFsInfoAndSpace(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	entries := []imagetest.Entry{imagetest.Dir(".", 0o755)}
	for i := range 300 {
		entries = append(entries, imagetest.File(fmt.Sprintf("d%d/f%d", i%7, i), strings.Repeat("x", i*50), 0o644))
	}
	layer := imagetest.NewLayer(imagetest.Tar(entries...), imagetest.Gzip)
	id := mustPull(t, s, push(t, r, "sized", "1", imagetest.New(layer)))
	// The counters must agree with what is there.
	real, err := tree.Measure(context.Background(), s.store.Diff(layer.DiffID))
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.ImageFsInfo(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	bytes, blobs := s.store.Content().Usage()
	real.Bytes += bytes
	real.Inodes += blobs
	fs := info.ImageFilesystems[0]
	if fs.InodesUsed.Value != real.Inodes || fs.UsedBytes.Value < real.Bytes*95/100 || fs.UsedBytes.Value > real.Bytes*105/100 {
		t.Errorf("counted %v, measured %+v", fs, real)
	}
	if fs.Timestamp <= 0 || fs.FsId.Mountpoint != info.ContainerFilesystems[0].FsId.Mountpoint {
		t.Errorf("%v", info)
	}
	if img := status(t, s, id); img.Size < (real.Bytes-bytes)*95/100 {
		t.Errorf("size %d", img.Size)
	}
	if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: id}); err != nil {
		t.Fatal(err)
	}
	expectEmpty(t, s)
}

func TestRemoveWhileInUse(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	id := mustPull(t, s, push(t, r, "used", "1", small("still here")))
	root := mount(t, s, "c1", id)
	if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: id}); err != nil {
		t.Fatal(err)
	}
	if status(t, s, id) != nil {
		t.Error("still listed")
	}
	if b, err := os.ReadFile(filepath.Join(root, "text")); err != nil || string(b) != "still here" {
		t.Errorf("%q, %v", b, err)
	}
	// Mounted again after a restart, without the image.
	if err := s.UnmountRootfs(context.Background(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.MountRootfs(context.Background(), "c1", id, root, "", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveRootfs(context.Background(), "c1"); err != nil {
		t.Fatal(err)
	}
	expectEmpty(t, s)
}
