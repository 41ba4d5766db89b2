package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// connection is one to the daemon, for the services that are not CRI's.
func (d *daemon) connection(t testing.TB) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (d *daemon) files(t testing.TB) *berthapi.ContainersClient {
	return berthapi.NewContainersClient(d.connection(t))
}

func (c *ctr) diff() []string {
	c.t.Helper()
	var got []string
	err := c.pod.d.files(c.t).Diff(c.t.Context(), berthapi.DiffRequest{ContainerID: c.id}, func(change berthapi.Change) error {
		got = append(got, change.Kind+" "+change.Path)
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return got
}

// The runtime's own mounts do not show; what the container did does, also in a user namespace
// and when it has ended.
func TestDiff(t *testing.T) {
	for name, options := range map[string][]podOption{"plain": nil, "user namespace": {userNamespace}} {
		t.Run(name, func(t *testing.T) {
			c := runPod(t, options...).run(shell("sleep 1000"))
			if got := c.diff(); len(got) != 0 {
				t.Errorf("nothing was done: %q", got)
			}
			c.sh("mkdir /new && echo x > /new/file && rm /bin/ls && echo x > /dev/shm/x")
			want := []string{"changed /bin", "deleted /bin/ls", "added /new", "added /new/file"}
			if got := c.diff(); !slices.Equal(got, want) {
				t.Errorf("changes %q, want %q", got, want)
			}
			c.stop(0)
			if got := c.diff(); !slices.Equal(got, want) {
				t.Errorf("changes when it has ended %q, want %q", got, want)
			}
		})
	}
	err := shared.files(t).Diff(t.Context(), berthapi.DiffRequest{ContainerID: "nobody"}, nil)
	wantCode(t, "a container that is not there", err, notFound)
}

func (c *ctr) commit(req berthapi.CommitRequest) (berthapi.Committed, error) {
	c.t.Helper()
	req.ContainerID = c.id
	return c.pod.d.files(c.t).Commit(context.Background(), req)
}

func image(name string) ctrOption {
	return func(c *runtimeapi.ContainerConfig) { c.Image = &runtimeapi.ImageSpec{Image: name} }
}

// An image of a container has its files, runs elsewhere, and leaves and comes back as an archive.
func TestCommit(t *testing.T) {
	const name = "example.com/committed:1"
	for what, options := range map[string][]podOption{"plain": nil, "user namespace": {userNamespace}} {
		t.Run(what, func(t *testing.T) {
			c := runPod(t, options...).run(shell(counter))
			c.sh("mkdir /new && echo text > /new/file && chown 7:8 /new/file && rm /bin/ls && echo x > /dev/shm/x")
			committed, err := c.commit(berthapi.CommitRequest{Name: name, Changes: []string{`CMD ["sh", "-c", "cat /new/file; stat -c %u:%g /new/file; ls /bin/ls"]`, "ENV WHO=me"}})
			if err != nil {
				t.Fatal(err)
			}
			if log := shared.logTail(100); !strings.Contains(log, "method=Commit") || !strings.Contains(log, "container_id="+c.id) {
				t.Errorf("the audit has no line of it: %s", log)
			}
			requireThawed(t)
			c.counts(c.counts(0))
			defer shared.removeImage(t, committed.ID)
			runs := func(of string) {
				t.Helper()
				got := runPod(t).run(command(), image(of))
				same(t, "exit code", got.wait().ExitCode, 1)
				same(t, "output", got.stdout(), "text\n7:8")
				if env := runPod(t).output(shell("echo $WHO"), image(of)); env != "me" {
					t.Errorf("the environment has %q", env)
				}
			}
			runs(committed.ID)
			c.stop(0)
			again, err := c.commit(berthapi.CommitRequest{Name: name + "-stopped"})
			if err != nil {
				t.Fatal(err)
			}
			shared.removeImage(t, again.ID)

			var archive bytes.Buffer
			archives := berthapi.NewTransfersClient(shared.connection(t))
			if err := archives.Save(t.Context(), berthapi.SaveRequest{Images: []string{name}}, &archive); err != nil {
				t.Fatal(err)
			}
			shared.removeImage(t, committed.ID)
			if err := archives.Load(t.Context(), berthapi.LoadRequest{}, &archive, func(berthapi.LoadEvent) {}); err != nil {
				t.Fatal(err)
			}
			same(t, "ID of what was loaded", shared.image(t, name).Id, committed.ID)
			runs(name)
		})
	}
}

// Whatever ends a commit before it is done, the container goes on and nothing of an image is
// left.
func TestCommitThatIsCutOff(t *testing.T) {
	for what, cut := range map[string]func(t *testing.T, d *daemon){
		"kill of berthd":        func(t *testing.T, d *daemon) { d.restart(t, syscall.SIGKILL) },
		"kill of berth-monitor": func(t *testing.T, d *daemon) { kill(t, d.monitor(t)) },
		"its time":              nil,
	} {
		t.Run(what, func(t *testing.T) {
			d := ownDaemon(t, "")
			d.pull(t, busybox)
			c := d.runPod(t, hostNetwork).run(shell(`head -c 100000000 /dev/urandom > /large; ` + counter))
			c.counts(0)
			before := disk(t, d)
			req := berthapi.CommitRequest{Name: "cut:off"}
			if cut == nil {
				req.Seconds = 0.02
			}
			done := make(chan error, 1)
			go func() {
				_, err := c.commit(req)
				done <- err
			}()
			eventually(t, "the container is frozen", func() bool { return c.frozen() || len(done) > 0 })
			if cut != nil {
				cut(t, d)
			}
			if err := <-done; err == nil {
				t.Error("the commit was through before: it needs more to write")
			}
			eventually(t, "the container is not frozen", func() bool { return !c.frozen() })
			c.counts(c.counts(0))
			if st, err := d.images.ImageStatus(t.Context(), &runtimeapi.ImageSpec{Image: "cut:off"}, false); err != nil || st.Image != nil {
				t.Errorf("there is an image: %v, %v", st, err)
			}
			eventually(t, "nothing is left on the disk", func() bool { return disk(t, d) == before })
		})
	}
}

// disk tells what a daemon keeps of images, and what it is about to.
func disk(t *testing.T, d *daemon) string {
	t.Helper()
	usage, err := d.storage(t).DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, i := range usage.Items {
		if i.Kind != "container" && i.Kind != "log" && i.Kind != "record" {
			all = append(all, i.Kind+" "+i.ID)
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func TestCommitRefuses(t *testing.T) {
	c := runPod(t).run(shell("sleep 1000"))
	_, err := c.commit(berthapi.CommitRequest{Name: "A B"})
	wantCode(t, "a bad name", err, invalidArgument)
	_, err = c.commit(berthapi.CommitRequest{Name: "a", Changes: []string{"RUN x"}})
	wantCode(t, "a bad change", err, invalidArgument)
	c.id = "nobody"
	_, err = c.commit(berthapi.CommitRequest{Name: "a"})
	wantCode(t, "a container that is not there", err, notFound)
}

// copyIn copies an archive into a directory of the container.
func (c *ctr) copyIn(dir string, archive []byte) error {
	c.t.Helper()
	return c.pod.d.files(c.t).CopyIn(c.t.Context(), berthapi.CopyRequest{ContainerID: c.id, Path: dir}, bytes.NewReader(archive))
}

// copyOut copies one file out of the container.
func (c *ctr) copyOut(path string) (string, error) {
	c.t.Helper()
	_, text, err := c.copyEntryOut(path)
	return text, err
}

func (c *ctr) copyEntryOut(path string) (*tar.Header, string, error) {
	c.t.Helper()
	var archive bytes.Buffer
	if err := c.pod.d.files(c.t).CopyOut(c.t.Context(), berthapi.CopyRequest{ContainerID: c.id, Path: path}, &archive); err != nil {
		return nil, "", err
	}
	in := tar.NewReader(&archive)
	hdr, err := in.Next()
	if err != nil {
		return nil, "", err
	}
	text, err := io.ReadAll(in)
	return hdr, string(text), err
}

// Files go in and out of containers that run, that have ended and that were not started, also
// in user namespaces.
func TestCopy(t *testing.T) {
	const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw=ep
	file := func(name, text string) []byte {
		return imagetest.Tar(imagetest.File(name, text, 0o640).Owned(7, 8).Xattr("security.capability", capability))
	}
	for what, options := range map[string][]podOption{"plain": nil, "user namespace": {userNamespace}} {
		t.Run(what, func(t *testing.T) {
			c := runPod(t, options...).create(shell("cat /created; sleep 1000"))
			roundTrip := func(name string) {
				t.Helper()
				if err := c.copyIn("/", file(name, name+"!")); err != nil {
					t.Fatal(err)
				}
				hdr, text, err := c.copyEntryOut("/" + name)
				if err != nil || text != name+"!" || hdr.PAXRecords["SCHILY.xattr.security.capability"] != capability {
					t.Errorf("copied out %q, %+v, %v", text, hdr, err)
				}
			}
			roundTrip("created")
			c.start()
			roundTrip("running")
			if got := c.sh("cat /running; stat -c ' %u:%g %a' /running"); got != "running! 7:8 640" {
				t.Errorf("in the container it is %q", got)
			}
			c.sh("echo shared > /dev/shm/x; ln -s /proc/self/environ /env; ln -s /proc/1/root/etc /host")
			if text, err := c.copyOut("/dev/shm/x"); err != nil || text != "shared\n" {
				t.Errorf("of a mount: %q, %v", text, err)
			}
			for _, path := range []string{"/proc/self/environ", "/env/", "/host/passwd", "/proc/1/root/etc/passwd"} {
				if text, err := c.copyOut(path); err == nil {
					t.Errorf("copied %s: %q", path, text)
				}
			}
			wantCode(t, "a device", c.copyIn("/", imagetest.Tar(imagetest.Device("null", '3', 1, 3))), invalidArgument)
			wantCode(t, "no directory", c.copyIn("/none", file("x", "x")), notFound)
			if log := shared.logTail(200); !strings.Contains(log, "method=CopyIn") || !strings.Contains(log, "container_id="+c.id) {
				t.Errorf("the audit has no line of it: %s", log)
			}
			c.stop(0)
			roundTrip("ended")
			if text, err := c.copyOut("/running"); err != nil || text != "running!" {
				t.Errorf("copied out %q, %v", text, err)
			}
			same(t, "output", c.stdout(), "created!")
		})
	}
}
