package integration

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// transfers is a client of the daemon's berth.v1.Transfers.
func (d *daemon) transfers(t testing.TB) *berthapi.TransfersClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return berthapi.NewTransfersClient(conn)
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

// fetched is what a registry without a guard has below /v2/.
func fetched(t *testing.T, r *imagetest.Registry, path string) string {
	t.Helper()
	resp, err := http.Get("http://" + r.Host + "/v2/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return string(raw)
}

// What is pulled from one registry and pushed to another, which wants a password, is the
// same there to the byte.
func TestPushFromOneRegistryToAnother(t *testing.T) {
	checkLeaks(t, shared)
	from, to := newRegistry(t), newRegistry(t)
	image := small("pushed", imagetest.Zstd)
	image.Layers = append(image.Layers, small("second", imagetest.Gzip).Layers...)
	index := &imagetest.Index{Images: []*imagetest.Image{image}}
	name, err := from.PushIndex("from/it", "1", index)
	if err != nil {
		t.Fatal(err)
	}
	id := shared.pull(t, name)
	g := guard{user: "u", password: "secret"}
	g.protect(to)
	client, target := shared.transfers(t), to.Host+"/to/it:2"
	req := berthapi.PushRequest{Image: name, Target: target}
	if err := client.Push(t.Context(), req, func(berthapi.PushEvent) {}); statusCode(err) != codes.Unauthenticated {
		t.Errorf("without a password: %v", err)
	}
	req.Username, req.Password = "u", "secret"
	var last, progress berthapi.PushEvent
	if err := client.Push(t.Context(), req, func(e berthapi.PushEvent) { progress, last = last, e }); err != nil {
		t.Fatal(err)
	}
	same(t, "the target", last.Target, target)
	if len(progress.Blobs) != 3 || slices.ContainsFunc(progress.Blobs, func(l berthapi.Layer) bool { return l.State != berthapi.LayerDone || l.Done != l.Total }) {
		t.Errorf("progress at the end: %+v", progress)
	}
	to.Wrap(nil)
	content, _ := index.Manifest()
	same(t, "what the tag leads to", fetched(t, to, "to/it/manifests/2"), string(content))
	manifest, _ := image.Manifest()
	same(t, "the manifest", fetched(t, to, "to/it/manifests/"+image.Digest().String()), string(manifest))
	for _, d := range append([]string{image.ID()}, blobDigests(image)...) {
		same(t, "blob "+d, fetched(t, to, "to/it/blobs/"+d), fetched(t, from, "from/it/blobs/"+d))
	}
	shared.removeImage(t, id)
	same(t, "the ID of what was pushed", shared.pull(t, target), id)
	shared.removeImage(t, id)
}

func blobDigests(i *imagetest.Image) []string {
	var list []string
	for _, l := range i.Layers {
		list = append(list, l.Descriptor.Digest.String())
	}
	return list
}

// An image that a container uses outlives its names, and a name that moves takes nothing
// from containers.
func TestTagsMoveUnderRunningContainers(t *testing.T) {
	p := runPod(t, hostNetwork)
	client := shared.transfers(t)
	base, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Layers = append(base.Layers, small("tagged", imagetest.Gzip).Layers...)
	name := push(t, "tags/a", "1", base)
	id := shared.pull(t, name)
	other := shared.pull(t, push(t, "tags/b", "1", small("other", imagetest.Gzip)))
	tag := func(image, name string) {
		t.Helper()
		if _, err := client.Tag(t.Context(), berthapi.TagRequest{Image: image, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	tag(name, "local.example/current:v1")
	c := p.run(func(c *runtimeapi.ContainerConfig) { c.Image.Image = "local.example/current:v1" })
	tag(other, "local.example/current:v1")
	same(t, "the name", shared.image(t, "local.example/current:v1").GetId(), other)
	for _, ref := range shared.image(t, id).RepoTags {
		if named, err := client.Untag(t.Context(), berthapi.UntagRequest{Name: ref}); err != nil || named.ID != id {
			t.Errorf("untag %s: %+v, %v", ref, named, err)
		}
	}
	if _, err := client.Untag(t.Context(), berthapi.UntagRequest{Name: name}); statusCode(err) != codes.NotFound {
		t.Errorf("untag again: %v", err)
	}
	if img := shared.image(t, id); img == nil || len(img.RepoTags) != 0 {
		t.Errorf("the image is %v", img)
	}
	same(t, "a file of the image", c.sh("cat /text"), "tagged")
	p.remove()
	shared.removeImage(t, id)
	shared.removeImage(t, other)
}

// Without the blobs an image cannot be pushed: the error says what to do.
func TestPushOfAnImageThatWasNotKept(t *testing.T) {
	d := ownDaemon(t, "images: {keepBlobs: false}\n")
	image := small("not kept", imagetest.Gzip)
	name := push(t, "discarded/a", "1", image)
	d.pull(t, name)
	err := d.transfers(t).Push(t.Context(), berthapi.PushRequest{Image: name}, func(berthapi.PushEvent) {})
	if statusCode(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "images.keepBlobs") || !strings.Contains(err.Error(), blobDigests(image)[0]) {
		t.Errorf("the push: %v", err)
	}
}

// A registry that hosts.toml only lets read is not pushed to.
func TestPushNeedsTheCapability(t *testing.T) {
	dir := shortDir(t)
	writeFile(t, filepath.Join(dir, "readonly.example", "hosts.toml"), fmt.Sprintf("server = \"http://%s\"\ncapabilities = [\"pull\", \"resolve\"]\n", registry.Host))
	d := ownDaemon(t, fmt.Sprintf("images: {certsDirs: [%s]}\n", dir))
	push(t, "readonly", "1", small("readonly", imagetest.Gzip))
	d.pull(t, "readonly.example/readonly:1")
	err := d.transfers(t).Push(t.Context(), berthapi.PushRequest{Image: "readonly.example/readonly:1"}, func(berthapi.PushEvent) {})
	if statusCode(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "capability push") {
		t.Errorf("the push: %v", err)
	}
}

// berth runs the command line against the daemon.
func (d *daemon) berth(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "berth"), append([]string{"--address", "unix://" + d.Socket}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("berth %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// An OCI layout is a directory too, which other tools read.
func TestLayoutDirectories(t *testing.T) {
	checkLeaks(t, shared)
	image := small("in a directory", imagetest.Gzip)
	name := push(t, "layouts/a", "1", image)
	id := shared.pull(t, name)
	dir := filepath.Join(shortDir(t), "layout")
	shared.berth(t, "save", "--dir", "--output", dir, name)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	shared.removeImage(t, id)
	for _, load := range [][]string{{"load", dir}, {"load", "--input", dir}} {
		if out := shared.berth(t, load...); !strings.Contains(out, name) {
			t.Errorf("%v: %s", load, out)
		}
		same(t, "the ID", shared.image(t, name).GetId(), id)
		shared.removeImage(t, id)
	}
}
