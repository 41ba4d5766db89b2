package integration

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// imageMount adds an image as a volume.
func imageMount(image, container, sub string) ctrOption {
	return func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{
			Image: &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: image}, ImageSubPath: sub, ContainerPath: container, Readonly: true,
		})
	}
}

// dropImage removes an image from the shared daemon at the test's end.
func dropImage(t *testing.T, id string) {
	t.Cleanup(func() {
		if err := shared.images.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: id}); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
	})
}

// modelImage pushes an image of data and returns its name.
func modelImage(t *testing.T) string {
	t.Helper()
	image := imagetest.New(
		imagetest.NewLayer(imagetest.Tar(imagetest.Dir("weights", 0o711).Owned(1000, 1000), imagetest.File("weights/v1", "one", 0o644),
			imagetest.File("run.sh", "#!/bin/sh\necho it ran\n", 0o755), imagetest.Symlink("latest", "/weights"), imagetest.Symlink("escape", "../../../../etc")), imagetest.Gzip),
		imagetest.NewLayer(imagetest.Tar(imagetest.File("weights/v2", "two", 0o644)), imagetest.Gzip),
	)
	name, err := registry.Push("model", strings.ToLower(t.Name()), image)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestImageVolumes(t *testing.T) {
	p := runPod(t, hostNetwork)
	name := modelImage(t)
	id := shared.pull(t, name)
	dropImage(t, id)
	c := p.run(imageMount(id, "/model", ""), imageMount(id, "/sub", "weights"), imageMount(id, "/link", "latest"), imageMount(name, "/file", "weights/v2"))
	same(t, "both layers", c.sh("cat /model/weights/v1 /model/weights/v2"), "onetwo")
	same(t, "a sub-path", c.sh("cat /sub/v2"), "two")
	same(t, "a sub-path that is a link", c.sh("cat /link/v1"), "one")
	same(t, "a file", c.sh("cat /file"), "two")
	same(t, "owner and mode", c.sh("stat -c %u:%g:%a /model/weights"), "1000:1000:711")
	same(t, "writing", c.sh("touch /model/x 2>/dev/null || echo refused"), "refused")
	same(t, "executing", c.sh("/model/run.sh"), "it ran")
	mounts := c.status().Mounts
	same(t, "mounts in the status", len(mounts), 4)
	for i, sub := range []string{"", "weights", "latest", "weights/v2"} {
		m := mounts[i]
		same(t, "the image's ID", m.GetImage().GetImage(), id)
		same(t, "the digest", m.GetImage().GetImageRef(), id)
		same(t, "the sub-path", m.ImageSubPath, sub)
		same(t, "the host path", m.HostPath, "")
		same(t, "read-only", m.Readonly, true)
	}
}

func TestImageVolumesThatCannotBeMounted(t *testing.T) {
	p := runPod(t, hostNetwork)
	name := modelImage(t)
	id := shared.pull(t, name)
	dropImage(t, id)
	change := func(f func(m *runtimeapi.Mount)) ctrOption {
		return func(c *runtimeapi.ContainerConfig) {
			imageMount(id, "/model", "")(c)
			f(c.Mounts[0])
		}
	}
	for what, c := range map[string]struct {
		option ctrOption
		code   codes.Code
		text   string
	}{
		"an image that is not there":     {imageMount("sha256:"+strings.Repeat("0", 64), "/model", ""), codes.NotFound, "ImageVolumeMountFailed: "},
		"a sub-path that is not there":   {imageMount(id, "/model", "weights/v9"), codes.NotFound, `"weights/v9"`},
		"a sub-path below a file":        {imageMount(id, "/model", "run.sh/x"), codes.NotFound, "ImageVolumeMountFailed: "},
		"a sub-path that leads out":      {imageMount(id, "/model", "escape"), codes.InvalidArgument, "leads out of the image"},
		"a sub-path with ..":             {imageMount(id, "/model", "../x"), codes.InvalidArgument, "image_sub_path"},
		"an absolute sub-path":           {imageMount(id, "/model", "/etc"), codes.InvalidArgument, "image_sub_path"},
		"a host path beside the image":   {change(func(m *runtimeapi.Mount) { m.HostPath = "/tmp" }), codes.InvalidArgument, "host_path"},
		"a sub-path without an image":    {change(func(m *runtimeapi.Mount) { m.Image, m.HostPath, m.ImageSubPath = nil, "/tmp", "x" }), codes.InvalidArgument, "image_sub_path"},
		"relabelling what others see":    {change(func(m *runtimeapi.Mount) { m.SelinuxRelabel = true }), codes.InvalidArgument, "selinux_relabel"},
		"mounts that lead to the node":   {change(func(m *runtimeapi.Mount) { m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL }), codes.InvalidArgument, "propagation"},
		"an option that is not known":    {change(func(m *runtimeapi.Mount) { m.MountOptions = []string{"nodev", "lazytime"} }), codes.InvalidArgument, "mount_options[1]"},
		"an option that gives rights":    {change(func(m *runtimeapi.Mount) { m.MountOptions = []string{"exec"} }), codes.InvalidArgument, "mount_options[0]"},
		"an option with a field for it":  {change(func(m *runtimeapi.Mount) { m.MountOptions = []string{"rw"} }), codes.InvalidArgument, "readonly"},
		"two options in one":             {change(func(m *runtimeapi.Mount) { m.MountOptions = []string{"nodev,suid"} }), codes.InvalidArgument, "mount_options[0]"},
		"a destination in another mount": {imageMount(id, "/proc/self", ""), codes.InvalidArgument, "container_path"},
	} {
		_, err := p.tryCreate(c.option)
		if statusCode(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v with %q", what, err, c.code, c.text)
		}
	}
	same(t, "containers", p.containers(), 0)
}

// An image stays for those who have it mounted, through its removal and through a
// kill of the daemon; then nothing of it is left.
func TestImageVolumesOutliveImageAndDaemon(t *testing.T) {
	d := ownDaemon(t, "")
	name := modelImage(t)
	id := d.pull(t, name)
	d.pull(t, busybox)
	p := d.runPod(t, hostNetwork)
	c, other := p.run(imageMount(id, "/model", "")), p.run(imageMount(id, "/model", "weights"))
	d.removeImage(t, id)
	if _, err := p.tryCreate(imageMount(id, "/model", "")); statusCode(err) != codes.NotFound {
		t.Errorf("a new use of a removed image: %v", err)
	}
	d.restart(t, syscall.SIGKILL)
	same(t, "content after the kill", c.sh("cat /model/weights/v2")+other.sh("cat /model/v1"), "twoone")
	if err := d.runtime.RemoveContainer(context.Background(), c.id); err != nil {
		t.Fatal(err)
	}
	same(t, "content for the one that is left", other.sh("cat /model/v2"), "two")
	p.remove()
	checkNothingLeft(t, d)
}

func TestMountOptions(t *testing.T) {
	p := runPod(t, hostNetwork)
	dir := t.TempDir()
	write(t, dir+"/run.sh", "#!/bin/sh\necho it ran\n")
	if err := os.Chmod(dir+"/run.sh", 0o755); err != nil {
		t.Fatal(err)
	}
	with := func(options ...string) func(*runtimeapi.Mount) {
		return func(m *runtimeapi.Mount) { m.MountOptions = options }
	}
	c := p.run(
		mount(dir, "/plain"),
		mount(dir, "/noexec", with("noexec", "nodev", "nosuid")),
		mount(dir, "/ro", readOnly, with("noexec")),
		mount(dir, "/rro", readOnly, with("nosuid"), func(m *runtimeapi.Mount) { m.RecursiveReadOnly = true }),
	)
	same(t, "without options", c.sh("/plain/run.sh"), "it ran")
	same(t, "noexec", c.sh("/noexec/run.sh 2>/dev/null || echo refused"), "refused")
	same(t, "noexec and writing", c.sh("touch /noexec/x && echo written"), "written")
	same(t, "noexec, read-only", c.sh("/ro/run.sh 2>/dev/null || touch /ro/x 2>/dev/null || echo refused"), "refused")
	for at, want := range map[string][]string{"/noexec": {"noexec", "nodev", "nosuid", "rw"}, "/ro": {"noexec", "ro"}, "/rro": {"nosuid", "ro"}} {
		options := "," + c.sh("awk '$5==\""+at+"\"{print $6}' /proc/self/mountinfo") + ","
		for _, o := range want {
			if !strings.Contains(options, ","+o+",") {
				t.Errorf("%s is mounted with %s, without %s", at, options, o)
			}
		}
	}
	same(t, "in the status", strings.Join(c.status().Mounts[1].MountOptions, " "), "noexec nodev nosuid")
	status, err := shared.runtime.Status(context.Background(), false)
	if err != nil || !status.GetFeatures().GetMountOptions() {
		t.Errorf("the feature is not announced: %v, %v", status.GetFeatures(), err)
	}
}

// A volume that an image declares is the container's own, filled from the image,
// and goes with it.
func TestVolumesOfTheImage(t *testing.T) {
	p := runPod(t, hostNetwork)
	base, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	with := *base
	with.Layers = append(with.Layers[:len(with.Layers):len(with.Layers)], imagetest.NewLayer(imagetest.Tar(
		imagetest.Dir("data", 0o2770).Owned(1000, 2000), imagetest.File("data/file", "from the image", 0o640).Owned(1000, 1000), imagetest.Dir("covered", 0o755), imagetest.File("covered/x", "x", 0o644)), imagetest.Gzip))
	with.Config.Config.Volumes = map[string]struct{}{"/data": {}, "/new": {}, "/covered": {}}
	name, err := registry.Push("volumes", "1", &with)
	if err != nil {
		t.Fatal(err)
	}
	id := shared.pull(t, name)
	dropImage(t, id)
	image := func(c *runtimeapi.ContainerConfig) { c.Image.Image = id }
	dir := t.TempDir()
	write(t, dir+"/host", "the request's")
	readOnlyRoot := security(func(s securityContext) { s.ReadonlyRootfs = true })
	c, other := p.run(image, readOnlyRoot, mount(dir, "/covered")), p.run(image)
	same(t, "content", c.sh("cat /data/file"), "from the image")
	same(t, "owner and mode", c.sh("stat -c %u:%g:%a /data"), "1000:2000:2770")
	same(t, "owner of the file", c.sh("stat -c %u:%a /data/file"), "1000:640")
	same(t, "a path that the image does not have", c.sh("stat -c %u:%g:%a /new; ls -A /new"), "0:0:755")
	same(t, "a mount wins", c.sh("ls /covered"), "host")
	same(t, "without one", other.sh("ls /covered"), "x")
	same(t, "writing, though the root is read-only", c.sh("echo -n changed > /data/file && touch /new/x && cat /data/file"), "changed")
	same(t, "the other container's", other.sh("cat /data/file; ls -A /new"), "from the image")
	same(t, "a mount of its own", c.sh("awk '$5==\"/data\"' /proc/self/mountinfo | wc -l"), "1")
	same(t, "mounts in the status", len(c.status().Mounts), 1)

	with.Config.Config.Volumes = map[string]struct{}{"/proc/self": {}}
	if name, err = registry.Push("volumes", "hostile", &with); err != nil {
		t.Fatal(err)
	}
	hostile := shared.pull(t, name)
	dropImage(t, hostile)
	_, err = p.tryCreate(func(c *runtimeapi.ContainerConfig) { c.Image.Image = hostile })
	if statusCode(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "/proc/self") {
		t.Errorf("an image with a volume over /proc: %v", err)
	}
}

// An OCI artifact is pulled, listed, mounted and removed as an image is, and no
// container runs from it.
func TestArtifactVolumes(t *testing.T) {
	p := runPod(t, hostNetwork)
	artifact := &imagetest.Artifact{Type: "application/vnd.test.model", Files: []imagetest.ArtifactFile{
		{Title: "model/weights", MediaType: "application/octet-stream", Blob: []byte("weights")},
		{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Blob: imagetest.NewLayer(imagetest.Tar(imagetest.File("packed/file", "packed", 0o644)), imagetest.Gzip).Blob},
	}}
	name, err := registry.PushArtifact("artifact", "v1", artifact)
	if err != nil {
		t.Fatal(err)
	}
	id := shared.pull(t, name)
	dropImage(t, id)
	image := shared.image(t, name)
	same(t, "ID", image.GetId(), artifact.Digest().String())
	same(t, "digest", image.RepoDigests[0], registry.Host+"/artifact@"+id)
	c := p.run(imageMount(id, "/model", ""), imageMount(name, "/weights", "model/weights"))
	same(t, "content", c.sh("cat /model/model/weights /model/packed/file /weights"), "weightspackedweights")
	same(t, "writing", c.sh("touch /model/x 2>/dev/null || echo refused"), "refused")
	same(t, "the digest in the status", c.status().Mounts[0].GetImage().GetImageRef(), id)
	_, err = p.tryCreate(func(c *runtimeapi.ContainerConfig) { c.Image.Image = id })
	if statusCode(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "is an artifact of type") {
		t.Errorf("a container of an artifact: %v", err)
	}
}
