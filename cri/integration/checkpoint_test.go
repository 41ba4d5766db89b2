package integration

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// criuWorks tells whether CRIU can be used on this machine, which depends on the kernel.
// Where it cannot, the calls that need it have a code for that; everything else about
// them is the same.
var criuWorks = sync.OnceValue(func() bool { return exec.Command("criu", "check").Run() == nil })

// counter counts in a file and on its output; whatever restores it goes on counting.
const counter = `i=0; while :; do i=$((i+1)); echo $i; echo $i > /tmp/count; sleep 0.1; done`

func (c *ctr) checkpoint(location string, timeout int64) error {
	return c.pod.d.runtime.CheckpointContainer(context.Background(), &runtimeapi.CheckpointContainerRequest{
		ContainerId: c.id, Location: location, Timeout: timeout,
	})
}

// counts waits until a counter has counted further than n, and returns how far it came.
func (c *ctr) counts(n int64) int64 {
	c.t.Helper()
	last := n
	eventually(c.t, "the container goes on", func() bool {
		lines := strings.Fields(c.logText("stdout"))
		if len(lines) > 0 {
			last = atoi(c.t, lines[len(lines)-1])
		}
		return last > n
	})
	return last
}

// requireThawed fails if a cgroup of the suite's pods is frozen.
func requireThawed(t *testing.T) {
	t.Helper()
	for _, dir := range podCgroups(t) {
		for file, frozen := range map[string]string{"cgroup.freeze": "1", "freezer.state": "FRO"} {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if err == nil && strings.HasPrefix(string(data), frozen) {
				t.Errorf("%s is frozen", dir)
			}
		}
	}
}

// requireEmpty fails if there is something in a directory.
func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	if left := glob(t, dir+"/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if hidden := glob(t, dir+"/.*"); len(hidden) > 0 {
		t.Errorf("left behind: %v", hidden)
	}
}

// A checkpoint of a container is an archive; the container goes on, and a new one goes on
// from the archive, in another pod, with its files, when it is started.
func TestCheckpointContainer(t *testing.T) {
	p := runPod(t)
	c := p.run(shell(counter))
	c.counts(2)
	dir := t.TempDir()
	location := filepath.Join(dir, "a.tar")
	err := c.checkpoint(location, 60)
	requireThawed(t)
	before := c.counts(0)
	c.counts(before)
	if !criuWorks() {
		wantCode(t, "a checkpoint without CRIU", err, failedPrecondition)
		requireEmpty(t, dir)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	names := archiveNames(t, location)
	for _, want := range []string{"config.dump", "spec.dump", "status.dump", "rootfs-diff.tar", "checkpoint/inventory.img"} {
		if !slices.Contains(names, want) {
			t.Errorf("the archive has no %s: %v", want, names)
		}
	}
	if info, err := os.Stat(location); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the archive is %v, %v", info, err)
	}
	same(t, "files beside the archive", len(glob(t, dir+"/*"))+len(glob(t, dir+"/.*")), 1)
	wantCode(t, "a checkpoint over another", c.checkpoint(location, 60), alreadyExists)

	// What it forks meanwhile would be what the other pod is asked to have left behind.
	c.stop(0)
	q := runPod(t)
	r := q.create(shell(counter), func(c *runtimeapi.ContainerConfig) { c.Image = &runtimeapi.ImageSpec{Image: location} })
	same(t, "state", r.status().State, runtimeapi.ContainerState_CONTAINER_CREATED)
	if _, err := os.Stat(r.logFile()); err == nil {
		same(t, "output before the start", r.logText(), "")
	}
	if err := shared.runtime.StartContainer(t.Context(), r.id); err != nil {
		t.Fatal(err)
	}
	first := r.counts(0)
	if lines := strings.Fields(r.logText("stdout")); atoi(t, lines[0]) < 2 {
		t.Errorf("it began anew: %v", lines)
	}
	r.counts(first)
	if n := atoi(t, r.sh("cat /tmp/count")); n < 2 {
		t.Errorf("the file has %d", n)
	}
	same(t, "host name", r.sh("hostname"), q.config.Hostname)
	r.stop(0)
	same(t, "exit code", r.status().ExitCode, 137)
}

func archiveNames(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for r := tar.NewReader(f); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag == tar.TypeReg && hdr.Mode != 0o600 {
			t.Errorf("%s has mode %o", hdr.Name, hdr.Mode)
		}
		names = append(names, hdr.Name)
	}
}

// A pod's checkpoint is of one instant, and its containers go on; a new pod goes on from
// it.
func TestCheckpointPod(t *testing.T) {
	p := runPod(t)
	var all []*ctr
	for range 2 {
		c := p.run(shell(counter))
		c.counts(2)
		all = append(all, c)
	}
	dir := t.TempDir()
	request := &runtimeapi.CheckpointPodRequest{
		PodSandboxId: p.id, OutputPath: dir, ContainerIds: []string{all[0].id, all[1].id},
		Options: map[string]string{"file-locks": "true"},
	}
	wantCode(t, "an unknown option", shared.runtime.CheckpointPod(t.Context(), &runtimeapi.CheckpointPodRequest{
		PodSandboxId: p.id, OutputPath: dir, ContainerIds: request.ContainerIds, Options: map[string]string{"fly": "true"},
	}), invalidArgument)
	err := shared.runtime.CheckpointPod(t.Context(), request)
	requireThawed(t)
	for _, c := range all {
		c.counts(c.counts(0))
	}
	restore := &runtimeapi.RestorePodRequest{CheckpointPath: dir, Config: podConfig(t), RuntimeHandler: "berth", Options: map[string]string{"file-locks": "true"}}
	for _, c := range all {
		restore.ContainerConfigs = append(restore.ContainerConfigs, c.conf)
	}
	// What the processes have in their environments is of the pod.
	restore.Config.Hostname = p.config.Hostname
	if !criuWorks() {
		wantCode(t, "a checkpoint without CRIU", err, failedPrecondition)
		requireEmpty(t, dir)
		_, err := shared.runtime.RestorePod(t.Context(), restore)
		wantCode(t, "what is no checkpoint", err, invalidArgument)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a directory that is not empty", shared.runtime.CheckpointPod(t.Context(), request), failedPrecondition)
	for _, c := range all {
		c.stop(0)
	}
	refuseRestores(t, restore)
	q, restored := restorePod(t, restore)
	for i, r := range restored {
		same(t, "state", r.status().State, runtimeapi.ContainerState_CONTAINER_CREATED)
		same(t, "name", r.status().Metadata.Name, all[i].conf.Metadata.Name)
	}
	for _, r := range restored {
		r.start()
		r.counts(r.counts(0))
	}
	if q.status().State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Error("the sandbox is not ready")
	}
	// The checkpoint can be used again.
	q.remove()
	restore.Config = podConfig(t)
	restore.Config.Hostname = p.config.Hostname
	_, restored = restorePod(t, restore)
	restored[0].start()
	restored[0].counts(0)
}

func restorePod(t *testing.T, req *runtimeapi.RestorePodRequest) (*pod, []*ctr) {
	t.Helper()
	resp, err := shared.runtime.RestorePod(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t, shared, resp.PodSandboxId, req.Config}
	t.Cleanup(p.remove)
	var all []*ctr
	for i, r := range resp.RestoredContainers {
		all = append(all, &ctr{t, p, r.ContainerId, req.ContainerConfigs[i]})
		same(t, "name", r.Name, req.ContainerConfigs[i].Metadata.Name)
	}
	return p, all
}

// refuseRestores asks for what a checkpoint cannot become; nothing is left of it.
func refuseRestores(t *testing.T, good *runtimeapi.RestorePodRequest) {
	t.Helper()
	before := len(sandboxes(t))
	for name, change := range map[string]func(*runtimeapi.RestorePodRequest){
		"another command": func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Command = []string{"sleep", "1"} },
		"an environment": func(r *runtimeapi.RestorePodRequest) {
			r.ContainerConfigs[1].Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}}
		},
		"a user": func(r *runtimeapi.RestorePodRequest) {
			r.ContainerConfigs[1].Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 5}
		},
		"one more mount": func(r *runtimeapi.RestorePodRequest) {
			r.ContainerConfigs[1].Mounts = []*runtimeapi.Mount{{HostPath: "/etc", ContainerPath: "/mnt"}}
		},
		"a terminal":      func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Tty = true },
		"another name":    func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[1].Metadata.Name = "other" },
		"a name less":     func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs = r.ContainerConfigs[:1] },
		"an option":       func(r *runtimeapi.RestorePodRequest) { r.Options = map[string]string{"fly": "true"} },
		"another handler": func(r *runtimeapi.RestorePodRequest) { r.RuntimeHandler = "none" },
	} {
		req := &runtimeapi.RestorePodRequest{
			CheckpointPath: good.CheckpointPath, Config: podConfig(t), Options: good.Options,
		}
		req.Config.Hostname = good.Config.Hostname
		for _, c := range good.ContainerConfigs {
			req.ContainerConfigs = append(req.ContainerConfigs, cloneConfig(c))
		}
		change(req)
		_, err := shared.runtime.RestorePod(t.Context(), req)
		if code := statusCode(err); code != failedPrecondition && code != invalidArgument && code != notFound {
			t.Errorf("%s: %v", name, err)
		}
		same(t, "sandboxes after "+name, len(sandboxes(t)), before)
		removeCgroups(t, req.Config.Linux.CgroupParent)
	}
}

func sandboxes(t *testing.T) []*runtimeapi.PodSandbox {
	t.Helper()
	list, err := shared.runtime.ListPodSandbox(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Whatever ends a checkpoint before it is done, its containers go on and nothing of it is
// left: the end of its time, and kills of either program.
func TestCheckpointThatIsCutOff(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, d *daemon){
		"kill of berthd":        func(t *testing.T, d *daemon) { d.restart(t, syscall.SIGKILL) },
		"kill of berth-monitor": func(t *testing.T, d *daemon) { kill(t, d.monitor(t)) },
		"kill of both": func(t *testing.T, d *daemon) {
			kill(t, d.monitor(t))
			d.restart(t, syscall.SIGKILL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := ownDaemon(t, "")
			d.pull(t, busybox)
			p := d.runPod(t, hostNetwork)
			c := p.run(shell(counter))
			c.counts(2)
			dir := t.TempDir()
			done := make(chan error, 1)
			go func(runtime interface {
				CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error
			}) {
				done <- runtime.CheckpointContainer(context.Background(), &runtimeapi.CheckpointContainerRequest{
					ContainerId: c.id, Location: filepath.Join(dir, "a.tar"), Timeout: 60,
				})
			}(d.runtime)
			if criuWorks() {
				eventually(t, "the container is frozen", func() bool { return c.frozen() || len(done) > 0 })
			}
			cut(t, d)
			<-done
			eventually(t, "the container is not frozen", func() bool { return !c.frozen() })
			c.counts(c.counts(0))
			if len(glob(t, dir+"/a.tar")) == 0 {
				requireEmpty(t, dir)
			}
			same(t, "files of checkpoints under way", len(glob(t, filepath.Join(d.Root, "checkpoints", "*"))), 0)
		})
	}
	t.Run("its time", func(t *testing.T) {
		p := runPod(t, hostNetwork)
		c := p.run(shell(`head -c 200000000 /dev/zero | tail | (sleep 1; ` + counter + `)`))
		c.counts(0)
		dir := t.TempDir()
		err := c.checkpoint(filepath.Join(dir, "a.tar"), 1)
		requireThawed(t)
		if err == nil {
			return // a machine that is quick enough
		}
		if code := statusCode(err); code != deadlineExceeded && code != failedPrecondition {
			t.Errorf("error %v", err)
		}
		requireEmpty(t, dir)
		c.counts(c.counts(0))
	})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// frozen tells whether the container's cgroup is frozen.
func (c *ctr) frozen() bool {
	for _, pattern := range []string{"*/*" + c.id + "*/freezer.state", "*/*" + c.id + "*/cgroup.freeze"} {
		for _, root := range cgroupRoots(c.t) {
			for _, file := range glob(c.t, filepath.Join(root, pattern)) {
				data, _ := os.ReadFile(file)
				if text := strings.TrimSpace(string(data)); text == "1" || strings.HasPrefix(text, "FR") {
					return true
				}
			}
		}
	}
	return false
}

// What cannot be a place for a checkpoint is refused before anything is frozen.
func TestCheckpointPlaces(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "mine")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/nonexistent", link); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "over a file", c.checkpoint(file, 0), alreadyExists)
	wantCode(t, "over a link", c.checkpoint(link, 0), alreadyExists)
	wantCode(t, "in no directory", c.checkpoint(filepath.Join(dir, "no", "a.tar"), 0), failedPrecondition)
	wantCode(t, "beside the path", c.checkpoint(dir+"/../a.tar", 0), invalidArgument)
	wantCode(t, "relative", c.checkpoint("a.tar", 0), invalidArgument)
	data, err := os.ReadFile(file)
	same(t, "the file", fmt.Sprint(string(data), err), "mine<nil>")
	for name, output := range map[string]string{"a file": file, "a link": link, "not empty": dir} {
		err := shared.runtime.CheckpointPod(t.Context(), &runtimeapi.CheckpointPodRequest{
			PodSandboxId: p.id, OutputPath: output, ContainerIds: []string{c.id},
		})
		if code := statusCode(err); code != invalidArgument && code != failedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
	created := p.create()
	wantCode(t, "what does not run", created.checkpoint(filepath.Join(dir, "b.tar"), 0), failedPrecondition)
	other := runPod(t, hostNetwork).run()
	empty := t.TempDir()
	wantCode(t, "a container of another pod", shared.runtime.CheckpointPod(t.Context(), &runtimeapi.CheckpointPodRequest{
		PodSandboxId: p.id, OutputPath: empty, ContainerIds: []string{c.id, other.id},
	}), invalidArgument)
	requireEmpty(t, empty)
	requireThawed(t)
}

// An archive that is none, or that is hostile, makes no container, and nothing is left of
// it.
func TestRestoreOfHostileArchives(t *testing.T) {
	p := runPod(t, hostNetwork)
	p.run() // there is an image
	dir := t.TempDir()
	for i, entries := range [][]tar.Header{
		{},
		{{Name: "../escape", Typeflag: tar.TypeReg, Mode: 0o600}},
		{{Name: "/etc/escape", Typeflag: tar.TypeReg, Mode: 0o600}},
		{{Name: "config.dump", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}},
		{{Name: "container.log", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}},
		{{Name: "config.dump", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}},
		{{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		{{Name: "fifo", Typeflag: tar.TypeFifo}},
		{{Name: "a", Typeflag: tar.TypeReg}, {Name: "a", Typeflag: tar.TypeReg}},
	} {
		path := filepath.Join(dir, strconv.Itoa(i)+".tar")
		writeArchive(t, path, entries)
		_, err := p.tryCreate(func(c *runtimeapi.ContainerConfig) { c.Image.Image = path })
		wantCode(t, fmt.Sprint(entries), err, invalidArgument)
	}
	_, err := p.tryCreate(func(c *runtimeapi.ContainerConfig) { c.Image.Image = filepath.Join(dir, "none.tar") })
	wantCode(t, "no archive", err, notFound)
	_, err = p.tryCreate(func(c *runtimeapi.ContainerConfig) { c.Image.Image = "/dev/zero" })
	wantCode(t, "a device", err, invalidArgument)
	same(t, "containers", p.containers(), 1)
	same(t, "files of checkpoints", len(glob(t, filepath.Join(shared.Root, "checkpoints", "*"))), 0)
}

// A checkpoint image, as CRI-O's users and kubelets make them: a container of it has the
// image and the files that the checkpoint tells, is created without CRIU, and does not run
// what CRIU cannot restore.
func TestCheckpointImage(t *testing.T) {
	p := runPod(t, hostNetwork)
	was := p.create()
	status, err := shared.runtime.ContainerStatus(t.Context(), was.id, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Spec json.RawMessage `json:"runtimeSpec"`
	}
	if err := json.Unmarshal([]byte(status.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	made := func(tag, annotation, imageID string) string {
		image := imagetest.New(imagetest.NewLayer(imagetest.Tar(
			imagetest.File("config.dump", fmt.Sprintf(`{"id":"1","rootfsImage":%q,"rootfsImageName":"example.test/other"}`, imageID), 0o644),
			imagetest.File("spec.dump", string(info.Spec), 0o644),
			imagetest.Dir("checkpoint", 0o755), imagetest.File("checkpoint/inventory.img", "forged", 0o644),
			imagetest.File("checkpoint/descriptors.json", "[]", 0o644),
			imagetest.File("rootfs-diff.tar", string(imagetest.Tar(imagetest.File("left", "by a process", 0o644))), 0o644),
		), imagetest.Gzip))
		image.Annotations = map[string]string{annotation: "main"}
		name, err := registry.Push("checkpoint", tag, image)
		if err != nil {
			t.Fatal(err)
		}
		dropImage(t, shared.pull(t, name))
		return name
	}
	of := func(name string) ctrOption {
		return func(c *runtimeapi.ContainerConfig) { c.Image = &runtimeapi.ImageSpec{Image: name} }
	}
	for tag, annotation := range map[string]string{
		"criu": "org.criu.checkpoint.container.name", "crio": "io.kubernetes.cri-o.annotations.checkpoint.name",
	} {
		name := made(tag, annotation, status.Status.ImageId)
		c := p.create(of(name))
		same(t, "state", c.status().State, runtimeapi.ContainerState_CONTAINER_CREATED)
		same(t, "image", c.status().ImageId, status.Status.ImageId)
		data, err := os.ReadFile(filepath.Join(shared.State, "containers", c.id, "rootfs", "left"))
		same(t, "what a process has left", fmt.Sprint(string(data), err), "by a process<nil>")
		wantCode(t, "a start of what is forged", shared.runtime.StartContainer(t.Context(), c.id), failedPrecondition)
		same(t, "state", c.status().State, runtimeapi.ContainerState_CONTAINER_EXITED)
		if err := shared.runtime.RemoveContainer(t.Context(), c.id); err != nil {
			t.Error(err)
		}
		_, err = p.tryCreate(of(name), func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "/etc", ContainerPath: "/mnt"}}
		})
		wantCode(t, "one more mount", err, failedPrecondition)
	}
	_, err = p.tryCreate(of(made("missing", "org.criu.checkpoint.container.name", "sha256:"+strings.Repeat("a", 64))))
	wantCode(t, "of an image that is not there", err, notFound)
	same(t, "containers", p.containers(), 1)
	same(t, "files of checkpoints", len(glob(t, filepath.Join(shared.Root, "checkpoints", "*"))), 0)
}

func writeArchive(t *testing.T, path string, entries []tar.Header) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, hdr := range entries {
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func cloneConfig(c *runtimeapi.ContainerConfig) *runtimeapi.ContainerConfig {
	return proto.Clone(c).(*runtimeapi.ContainerConfig)
}
