package integration

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// push stores an image and returns its name.
func push(t *testing.T, repository, tag string, i *imagetest.Image) string {
	t.Helper()
	name, err := registry.Push(repository, tag, i)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// small makes an image of one file.
func small(text string, c imagetest.Compression) *imagetest.Image {
	return imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.File("text", text, 0o644)), c))
}

func (d *daemon) image(t *testing.T, name string) *runtimeapi.Image {
	t.Helper()
	r, err := d.images.ImageStatus(t.Context(), &runtimeapi.ImageSpec{Image: name}, false)
	if err != nil {
		t.Fatalf("status of %s: %v", name, err)
	}
	return r.Image
}

func (d *daemon) removeImage(t *testing.T, name string) {
	t.Helper()
	if err := d.images.RemoveImage(t.Context(), &runtimeapi.ImageSpec{Image: name}); err != nil {
		t.Errorf("remove %s: %v", name, err)
	}
}

func TestImageNames(t *testing.T) {
	checkLeaks(t, shared)
	i := small("names", imagetest.Gzip)
	one := push(t, "names/one", "v1", i)
	two := push(t, "names/two", "v2", i)
	id := shared.pull(t, one)
	same(t, "ID of the second name", shared.pull(t, two), id)
	same(t, "ID is the configuration's digest", id, i.ID())
	digest := strings.TrimSuffix(one, ":v1") + "@" + i.Digest().String()
	for _, name := range []string{one, two, digest, id, strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:12]} {
		img := shared.image(t, name)
		if img == nil {
			t.Errorf("%s is not found", name)
			continue
		}
		same(t, "ID of "+name, img.Id, id)
	}
	img := shared.image(t, id)
	if !slices.Contains(img.RepoTags, one) || !slices.Contains(img.RepoTags, two) || !slices.Contains(img.RepoDigests, digest) || img.Size == 0 {
		t.Errorf("the image is %v", img)
	}
	list, err := shared.images.ListImages(t.Context(), &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: two}})
	if err != nil || len(list) != 1 || list[0].Id != id {
		t.Errorf("list: %v, %v", list, err)
	}
	// One name takes all with it.
	shared.removeImage(t, two)
	for _, name := range []string{one, two, digest, id} {
		if img := shared.image(t, name); img != nil {
			t.Errorf("%s is still there: %v", name, img)
		}
	}
	shared.removeImage(t, one)
}

func TestKindsOfImages(t *testing.T) {
	p := runPod(t, hostNetwork)
	base, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	layer := func(text string, c imagetest.Compression) imagetest.Layer {
		return imagetest.NewLayer(imagetest.Tar(imagetest.File("text", text, 0o644)), c)
	}
	with := func(l imagetest.Layer) *imagetest.Image {
		i := *base
		i.Layers = append(slices.Clone(base.Layers), l)
		return &i
	}
	docker := with(layer("docker", imagetest.Gzip))
	docker.Docker = true
	foreign := small("foreign", imagetest.Gzip)
	foreign.Config.Platform = v1.Platform{OS: "linux", Architecture: "s390x"}
	names := map[string]string{
		"gzip":   push(t, "kinds/gzip", "1", with(layer("gzip", imagetest.Gzip))),
		"zstd":   push(t, "kinds/zstd", "1", with(layer("zstd", imagetest.Zstd))),
		"plain":  push(t, "kinds/plain", "1", with(layer("plain", imagetest.Plain))),
		"docker": push(t, "kinds/docker", "1", docker),
	}
	for _, docker := range []bool{false, true} {
		text := fmt.Sprintf("index-%v", docker)
		native := with(layer(text, imagetest.Gzip))
		name, err := registry.PushIndex("kinds/"+text, "1", &imagetest.Index{Images: []*imagetest.Image{foreign, native}, Docker: docker})
		if err != nil {
			t.Fatal(err)
		}
		names[text] = name
	}
	for text, name := range names {
		same(t, text, p.output(command("cat", "/text"), func(c *runtimeapi.ContainerConfig) { c.Image.Image = name }), text)
	}
}

// Whiteouts, links and owners of several layers come out as the image means.
func TestLayersInAContainer(t *testing.T) {
	p := runPod(t, hostNetwork)
	base, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Layers = append(base.Layers,
		imagetest.NewLayer(imagetest.Tar(
			imagetest.Dir("d", 0o755), imagetest.File("d/removed", "x", 0o644), imagetest.File("d/kept", "x", 0o640).Owned(1000, 2000),
			imagetest.Dir("opaque", 0o755), imagetest.File("opaque/hidden", "x", 0o644),
			imagetest.File("setuid", "x", 0o4755), imagetest.Hardlink("hard", "d/kept"), imagetest.Symlink("soft", "d/kept"),
		), imagetest.Zstd),
		imagetest.NewLayer(imagetest.Tar(
			imagetest.Dir("d", 0o755), imagetest.File("d/.wh.removed", "", 0o644),
			imagetest.Dir("opaque", 0o755), imagetest.File("opaque/.wh..wh..opq", "", 0o644), imagetest.File("opaque/new", "x", 0o644),
		), imagetest.Gzip))
	name := push(t, "layers", "1", base)
	c := p.run(func(c *runtimeapi.ContainerConfig) { c.Image.Image = name })
	same(t, "a directory", c.sh("ls /d"), "kept")
	same(t, "an opaque directory", c.sh("ls /opaque"), "new")
	same(t, "owner and mode", c.sh("stat -c '%u %g %a' /d/kept"), "1000 2000 640")
	same(t, "a set-UID file", c.sh("stat -c %a /setuid"), "4755")
	same(t, "links", c.sh("stat -c %h /hard; readlink /soft"), "2\nd/kept")
	// What a container writes is its own.
	c.sh("echo mine > /d/kept")
	same(t, "another container's", p.run(func(c *runtimeapi.ContainerConfig) { c.Image.Image = name }).sh("cat /d/kept"), "x")
}

func TestImageInUse(t *testing.T) {
	p := runPod(t, hostNetwork)
	base, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Layers = append(base.Layers, imagetest.NewLayer(imagetest.Tar(imagetest.File("in-use", strings.Repeat("x", 3_000_000), 0o644)), imagetest.Gzip))
	name := push(t, "in-use", "1", base)
	c := p.run(func(c *runtimeapi.ContainerConfig) { c.Image.Image = name })
	shared.removeImage(t, name)
	if img := shared.image(t, name); img != nil {
		t.Errorf("the image is still there: %v", img)
	}
	same(t, "the container's files", c.sh("wc -c < /in-use"), "3000000")
	same(t, "a new file", c.sh("echo x > /new; cat /new"), "x")
}

func TestRemovalFreesTheSpace(t *testing.T) {
	d := ownDaemon(t, "")
	used := func() uint64 {
		t.Helper()
		r, err := d.images.ImageFsInfo(t.Context())
		if err != nil || len(r.ImageFilesystems) != 1 || len(r.ContainerFilesystems) != 1 {
			t.Fatalf("file systems: %v, %v", r, err)
		}
		fs := r.ImageFilesystems[0]
		if fs.Timestamp <= 0 || fs.FsId.GetMountpoint() == "" || fs.InodesUsed == nil {
			t.Errorf("the file system is %v", fs)
		}
		return fs.UsedBytes.GetValue()
	}
	before := used()
	text := make([]byte, 8<<20)
	for i := range text {
		text[i] = byte(i * i >> 7)
	}
	i := small(string(text), imagetest.Plain)
	name := push(t, "space", "1", i)
	d.pull(t, name)
	eventually(t, "the image's bytes are reported", func() bool { return used() >= before+8<<20 })
	d.removeImage(t, name)
	eventually(t, "the space is free", func() bool { return used() <= before+1<<20 })
	var left int64
	err := filepath.Walk(d.Root, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			left += info.Size()
		}
		return nil
	})
	if err != nil || left > 1<<20 {
		t.Errorf("%d bytes are left below %s, %v", left, d.Root, err)
	}
}

// protect makes the registry ask for a password, for the time of a test.
func protect(t *testing.T, repository, user, password string) {
	t.Helper()
	registry.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u, p, _ := r.BasicAuth()
			if (strings.Contains(r.URL.Path, repository) || r.URL.Path == "/v2/") && (u != user || p != password) {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	t.Cleanup(func() { registry.Wrap(nil) })
}

func TestCredentials(t *testing.T) {
	checkLeaks(t, shared)
	name := push(t, "private", "1", small("secret", imagetest.Gzip))
	protect(t, "private", "user", "pass:word")
	pull := func(auth *runtimeapi.AuthConfig) error {
		_, err := shared.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: name}, auth, nil)
		return err
	}
	if err := pull(nil); err == nil {
		t.Error("pulled without credentials")
	}
	if err := pull(&runtimeapi.AuthConfig{Username: "user", Password: "wrong"}); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with a wrong password: %v", err)
	}
	for form, auth := range map[string]*runtimeapi.AuthConfig{
		"user and password": {Username: "user", Password: "pass:word"},
		"encoded":           {Auth: base64.StdEncoding.EncodeToString([]byte("user:pass:word"))},
	} {
		if err := pull(auth); err != nil {
			t.Errorf("%s: %v", form, err)
		}
		shared.removeImage(t, name)
	}
	if data, err := os.ReadFile(shared.Log); err != nil || strings.Contains(string(data), "pass:word") {
		t.Errorf("the password is in the log (%v)", err)
	}
}

func TestMirrors(t *testing.T) {
	name := push(t, "mirrored/app", "1", small("mirrored", imagetest.Gzip))
	certs := shortDir(t)
	write(t, filepath.Join(certs, "registry.example", "hosts.toml"), fmt.Sprintf(
		"server = \"http://127.0.0.1:1\"\n[host.\"http://127.0.0.1:9\"]\n  capabilities = [\"pull\", \"resolve\"]\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registry.Host))
	d := ownDaemon(t, fmt.Sprintf("images:\n  certsDirs: [%s]\n", certs))
	id := d.pull(t, "registry.example/mirrored/app:1")
	same(t, "ID", id, d.pull(t, name))
	img := d.image(t, "registry.example/mirrored/app:1")
	if img == nil || !slices.Contains(img.RepoTags, "registry.example/mirrored/app:1") {
		t.Errorf("the image is %v", img)
	}
	// The error of a pull names every host that was tried.
	_, err := d.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: "registry.example/absent:1"}, nil, nil)
	for _, host := range []string{"127.0.0.1:9", registry.Host, "127.0.0.1:1"} {
		if err == nil || !strings.Contains(err.Error(), host) {
			t.Errorf("the error does not name %s: %v", host, err)
		}
	}
}

// What is wrong with an image or a registry has a name and a code, and nothing
// of it stays.
func TestBadImages(t *testing.T) {
	checkLeaks(t, shared)
	hostile := func(entries ...imagetest.Entry) *imagetest.Image {
		return imagetest.New(imagetest.NewLayer(imagetest.Tar(entries...), imagetest.Gzip))
	}
	escape := hostile(imagetest.File("../../../../tmp/berth-it-escaped", "x", 0o644))
	link := hostile(imagetest.Symlink("etc", "/tmp"), imagetest.File("etc/berth-it-escaped", "x", 0o644))
	broken := small("broken", imagetest.Gzip)
	broken.Layers[0].DiffID = imagetest.NewLayer([]byte("another"), imagetest.Plain).DiffID
	truncated := small(strings.Repeat("truncated", 100000), imagetest.Plain)
	answer := func(status int, body string) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				fmt.Fprint(w, body)
			})
		}
	}
	cut := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") && strings.Contains(r.URL.Path, truncated.Layers[0].Descriptor.Digest.String()) {
				w.Header().Set("Content-Length", fmt.Sprint(len(truncated.Layers[0].Blob)))
				w.Write(truncated.Layers[0].Blob[:1000])
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	}
	for name, c := range map[string]struct {
		image string
		wrap  func(http.Handler) http.Handler
		want  []codes.Code
	}{
		"absent":     {registry.Host + "/absent:1", nil, []codes.Code{codes.NotFound}},
		"absent tag": {strings.TrimSuffix(busybox, "latest") + "absent", nil, []codes.Code{codes.NotFound}},
		// Unknown with this beginning is what a kubelet understands.
		"no registry":      {"127.0.0.1:1/a:1", nil, []codes.Code{codes.Unknown}},
		"not a name":       {"UPPER/case::1", nil, []codes.Code{codes.InvalidArgument}},
		"nonsense":         {busybox[:len(busybox)-len("latest")] + "nonsense", answer(200, "<html>hello</html>"), nil},
		"a failing server": {registry.Host + "/failing:1", answer(500, "oops"), []codes.Code{codes.Unknown}},
		"a wrong DiffID":   {push(t, "bad/diffid", "1", broken), nil, nil},
		"truncated":        {push(t, "bad/truncated", "1", truncated), cut, nil},
	} {
		t.Run(name, func(t *testing.T) {
			registry.Wrap(c.wrap)
			defer registry.Wrap(nil)
			_, err := shared.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: c.image}, nil, nil)
			if err == nil {
				t.Fatal("was pulled")
			}
			code := statusCode(err)
			if len(c.want) > 0 && !slices.Contains(c.want, code) {
				t.Errorf("code %v, want %v: %v", code, c.want, err)
			}
			if code == codes.Unknown && !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
				t.Errorf("the error has no kind: %v", err)
			}
			if !strings.Contains(err.Error(), strings.SplitN(c.image, ":", 2)[0]) {
				t.Errorf("the error does not name the image: %v", err)
			}
			if c.wrap == nil && name == "not a name" {
				return
			}
			if img := shared.image(t, c.image); img != nil {
				t.Errorf("the image is there: %v", img)
			}
		})
	}
	// A hostile layer either is refused or stays inside its root.
	for name, i := range map[string]*imagetest.Image{"bad/escape": escape, "bad/link": link} {
		image := push(t, name, "1", i)
		if _, err := shared.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: image}, nil, nil); err == nil {
			shared.removeImage(t, image)
		}
		if _, err := os.Lstat("/tmp/berth-it-escaped"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s wrote to the host: %v", name, err)
			os.Remove("/tmp/berth-it-escaped")
		}
	}
	if ingest := glob(t, shared.Root+"/ingest/*"); len(ingest) > 0 {
		t.Errorf("left behind: %v", ingest)
	}
}

// A full disk is told from other errors, and the image can be pulled when there
// is room again.
func TestFullDisk(t *testing.T) {
	dir := shortDir(t)
	d, err := layOut(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.Root, "tmpfs", 0, "size=12m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	large := small(strings.Repeat("0123456789", 2_000_000), imagetest.Gzip)
	name := push(t, "large", "1", large)
	_, err = d.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: name}, nil, nil)
	wantCode(t, "a pull", err, codes.ResourceExhausted)
	if left := glob(t, d.Root+"/ingest/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := unix.Mount("", d.Root, "", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	d.pull(t, name)
}
