package crash

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/hack/testnode"
)

// verify looks at what a crash has left, with berthd running again: all that is
// there is whole and in use, and everything can be pulled.
func verify(t *testing.T, n *testnode.Node) {
	t.Helper()
	verifyAfter(t, n, false)
}

// verifyAfter is verify. After a power loss there may be records that are torn, which
// are set aside for a person to look at.
func verifyAfter(t *testing.T, n *testnode.Node, powerLoss bool) {
	t.Helper()
	if powerLoss {
		if torn := names(n, "damaged"); len(torn) > 0 {
			t.Logf("set aside: %q", torn)
		}
		if err := os.RemoveAll(filepath.Join(n.Root, "damaged")); err != nil {
			t.Error(err)
		}
		if err := os.Mkdir(filepath.Join(n.Root, "damaged"), 0o700); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the pods are removed", func() error { return noPods(t, n) })
	eventually(t, "what nothing refers to is removed", func() error { return unreferenced(t, n) })
	verifyLayers(t, n)
	ran := map[string]bool{}
	runListed(t, n, ran)
	for _, img := range images {
		if err := pull(t.Context(), n, img.name); err != nil {
			t.Errorf("the next pull of %s: %v", img.name, err)
		}
	}
	verifyLayers(t, n)
	if out, err := exec.Command(filepath.Join(bin, "berth"), "--address", n.Socket, "fsck").CombinedOutput(); err != nil {
		t.Errorf("berth fsck: %v\n%s", err, out)
	}
	runListed(t, n, ran)
	eventually(t, "after the next pulls", func() error { return unreferenced(t, n) })
	eventually(t, "and of its containers", func() error { return noPods(t, n) })
}

// noPods removes all pods, those too whose callers have left while they were made.
func noPods(t *testing.T, n *testnode.Node) error {
	t.Helper()
	err := n.RemovePods(t.Context())
	mounts, merr := n.Mounts()
	if len(mounts) > 0 {
		merr = errors.Join(merr, fmt.Errorf("mounts: %q", mounts))
	}
	return errors.Join(err, merr)
}

// empty removes all images and looks whether anything is left.
func empty(t *testing.T, n *testnode.Node) {
	t.Helper()
	for _, img := range list(t, n) {
		if err := remove(t.Context(), n, img.Id); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all is removed", func() error {
		for _, dir := range []string{"images", "layers", "blobs/sha256", "rootfs", "ingest", "damaged"} {
			if left := names(n, dir); len(left) > 0 {
				return fmt.Errorf("%s has %q", dir, left)
			}
		}
		return nil
	})
}

func list(t *testing.T, n *testnode.Node) []*runtimeapi.Image {
	t.Helper()
	resp, err := n.Images().ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Images
}

// runListed runs every image that is listed and has not run yet.
func runListed(t *testing.T, n *testnode.Node, ran map[string]bool) {
	t.Helper()
	logs := t.TempDir()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, img := range list(t, n) {
		if ran[img.Id] {
			continue
		}
		ran[img.Id] = true
		wg.Go(func() {
			if err := runPod(t.Context(), n, img.Id, logs, check, nil); err != nil {
				t.Errorf("%s %q does not run: %v", img.Id, img.RepoTags, err)
			}
		})
	}
}

// imageInfo is what berthd tells of an image.
type imageInfo struct {
	ManifestDigest string
	Layers         []struct{ DiffID, Blob string }
}

func infoOf(t *testing.T, n *testnode.Node, id string) (info imageInfo, err error) {
	resp, err := n.Images().ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id}, Verbose: true})
	if err != nil {
		return info, err
	}
	return info, json.Unmarshal([]byte(resp.Info["info"]), &info)
}

// isCommitted tells of an image that was made of a container: what it is made of, only
// berthd can tell. Its files have sums.
func isCommitted(img *runtimeapi.Image) bool {
	return slices.ContainsFunc(img.RepoDigests, func(name string) bool { return strings.HasPrefix(name, committed+"@") })
}

func names(n *testnode.Node, dir string) []string {
	entries, err := os.ReadDir(filepath.Join(n.Root, dir))
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

// unreferenced tells of anything that belongs to no image that is listed. No
// container is there.
func unreferenced(t *testing.T, n *testnode.Node) error {
	var wantImages, wantLayers, wantBlobs []string
	for _, img := range list(t, n) {
		wantImages = append(wantImages, strings.TrimPrefix(img.Id, "sha256:"))
		info, err := infoOf(t, n, img.Id)
		if err != nil {
			return err
		}
		of := blobs[img.Id]
		if isCommitted(img) {
			of = []string{img.Id, info.ManifestDigest}
		}
		for _, l := range info.Layers {
			wantLayers = append(wantLayers, strings.TrimPrefix(l.DiffID, "sha256:"))
			if isCommitted(img) {
				of = append(of, l.Blob)
			}
		}
		wantBlobs = append(wantBlobs, of...)
	}
	slices.Sort(wantLayers)
	var errs []error
	for dir, want := range map[string][]string{"images": wantImages, "layers": slices.Compact(wantLayers), "rootfs": nil, "volumes": nil, "ingest": nil, "damaged": nil} {
		if got := names(n, dir); !slices.Equal(got, want) {
			errs = append(errs, fmt.Errorf("%s holds %q, want %q", dir, got, want))
		}
	}
	return errors.Join(append(errs, strayBlobs(n, wantBlobs), temporary(n.Root))...)
}

// strayBlobs tells of blobs that are not what their name says, or of no image.
func strayBlobs(n *testnode.Node, want []string) error {
	var errs []error
	for _, name := range names(n, "blobs/sha256") {
		if !slices.Contains(want, "sha256:"+name) {
			errs = append(errs, fmt.Errorf("blob %s is of no image", name))
		}
		content, err := os.ReadFile(filepath.Join(n.Root, "blobs/sha256", name))
		if got := fmt.Sprintf("%x", sha256.Sum256(content)); err != nil || got != name {
			errs = append(errs, fmt.Errorf("blob %s has the sum %s: %w", name, got, err))
		}
	}
	for _, name := range names(n, "partial") {
		if digest, _ := strings.CutPrefix(name, "sha256-"); slices.Contains(names(n, "blobs/sha256"), digest) {
			errs = append(errs, fmt.Errorf("the beginning of blob %s is kept beside it", digest))
		}
	}
	return errors.Join(errs...)
}

// temporary tells of files that were never renamed into place.
func temporary(root string) error {
	var found []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we look
		}
		if e != nil && e.IsDir() && e.Name() == "diff" {
			return filepath.SkipDir
		}
		if err == nil && strings.HasPrefix(e.Name(), ".tmp") {
			found = append(found, path)
		}
		return err
	})
	if len(found) > 0 {
		err = errors.Join(err, fmt.Errorf("temporary files: %q", found))
	}
	return err
}

// verifyLayers compares the tree of every layer with its archive. Those of containers'
// changes have no other one than berthd's.
func verifyLayers(t *testing.T, n *testnode.Node) {
	t.Helper()
	ofChanges := map[string]bool{}
	for _, img := range list(t, n) {
		if !isCommitted(img) {
			continue
		}
		info, err := infoOf(t, n, img.Id)
		if err != nil {
			t.Error(err)
			continue
		}
		ofChanges[info.Layers[len(info.Layers)-1].DiffID] = true
	}
	for _, name := range names(n, "layers") {
		want, ok := trees["sha256:"+name]
		if ofChanges["sha256:"+name] {
			continue
		}
		if !ok {
			t.Errorf("layer %s is of no image", name)
			continue
		}
		got, err := treeOfDir(filepath.Join(n.Root, "layers", name, "diff"))
		if err != nil {
			t.Error(err)
		}
		for _, d := range want.differences(got) {
			t.Errorf("layer %s: %s", name[:12], d)
		}
	}
}

// tail is the end of a log, without what only a debugger wants.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var kept []string
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, "level=DEBUG") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-lines):], "")
}
