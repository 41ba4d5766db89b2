package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// saved pulls an image by the shared daemon, names it, and returns it as an archive.
func saved(t *testing.T, image *imagetest.Image, name string, docker bool) []byte {
	t.Helper()
	id := shared.pull(t, push(t, "imports/"+strings.NewReplacer("/", "-", ":", "-").Replace(name), "1", image))
	defer shared.removeImage(t, id)
	client := shared.transfers(t)
	if _, err := client.Tag(t.Context(), berthapi.TagRequest{Image: id, Name: name}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := client.Save(t.Context(), berthapi.SaveRequest{Images: []string{name}, Docker: docker}, &archive); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// Archives in a watched folder are images, which run without a registry, are pinned as long
// as their file is there, and have to pass the image policy.
func TestImportFolder(t *testing.T) {
	dir := shortDir(t)
	put := func(name string, archive []byte) string {
		t.Helper()
		path := filepath.Join(dir, "images", name)
		writeFile(t, path+".part", string(archive))
		if err := os.Rename(path+".part", path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	base, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Layers = append(base.Layers, small("imported", imagetest.Zstd).Layers...)
	file := put("layout.tar", saved(t, base, "imported.example/a:1", false))
	put("docker.tar", saved(t, small("docker", imagetest.Gzip), "denied.example/b:1", true))
	put("bad.tar", []byte("no archive at all"))
	policy := filepath.Join(dir, "policy.yaml")
	writeFile(t, policy, "apiVersion: berth.dev/v1alpha1\nkind: ImagePolicy\nregistries: {deny: [denied.example]}\n")
	d := ownDaemonIn(t, dir, fmt.Sprintf("images: {importDirs: [%s/images], policyFile: %s}\n", dir, policy))
	pinned := func(name string, want bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s is there, pinned %v", name, want), func() bool {
			i := d.image(t, name)
			return i != nil && i.Pinned == want
		})
	}
	pinned("imported.example/a:1", true)
	pinned("denied.example/b:1", true)
	same(t, "the ID", d.image(t, "imported.example/a:1").GetId(), base.ID())
	p := d.runPod(t, hostNetwork)
	uses := func(name string) ctrOption { return func(c *runtimeapi.ContainerConfig) { c.Image.Image = name } }
	c := p.run(uses("imported.example/a:1"))
	same(t, "a file of the image", c.sh("cat /text"), "imported")
	refused := p.containerConfig(uses("denied.example/b:1"))
	if _, err := d.runtime.CreateContainer(t.Context(), p.id, refused, p.config); statusCode(err) != codes.PermissionDenied || !strings.Contains(err.Error(), crierrors.ErrSignatureValidationFailed.Error()) {
		t.Errorf("a container of a denied image: %v", err)
	}

	d.restart(t, syscall.SIGKILL)
	pinned("imported.example/a:1", true)
	if log := d.logTail(1000); strings.Count(log, "imported images") != 2 {
		t.Error("the archives were imported again")
	}
	eventually(t, "the bad archive is reported by each process, once", func() bool {
		return strings.Count(d.logTail(1000), "bad.tar again=false") == 2
	})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	pinned("imported.example/a:1", false)
	same(t, "a file of the image", c.sh("cat /text"), "imported")
	p.remove()
	checkNothingLeft(t, d)
}
