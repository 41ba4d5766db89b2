package integration

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
)

// storage is a client of the daemon's berth.v1.Storage.
func (d *daemon) storage(t testing.TB) *berthapi.StorageClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return berthapi.NewStorageClient(conn)
}

// Every byte below the root directory is explained, and nothing is an orphan.
func TestDiskUsage(t *testing.T) {
	p := runPod(t)
	c := p.run(shell("dd if=/dev/zero of=/written bs=1000 count=700; echo hello; sleep 1000"))
	eventually(t, "it has written its file and its log", func() bool { return c.stdout() == "hello" })
	usage, err := shared.storage(t).DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var total, logs uint64
	for _, i := range usage.Items {
		switch {
		case i.Outside:
			logs += i.Bytes
		case i.Kind == "orphan":
			t.Errorf("an orphan: %+v", i)
			fallthrough
		default:
			total += i.Bytes
		}
	}
	out, err := exec.Command("du", "-s", "-x", "--block-size=1", shared.Root).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := uint64(atoi(t, strings.Fields(string(out))[0])); total < want*99/100 || total > want*101/100 {
		t.Errorf("explains %d of %d bytes: %+v", total, want, usage.Items)
	}
	if logs == 0 || len(usage.Filesystems) == 0 || usage.Filesystems[0].Size == 0 {
		t.Errorf("logs of %d bytes, file systems %+v", logs, usage.Filesystems)
	}
}

// check has everything verified and returns the findings that are not "intact".
func check(t testing.TB, client *berthapi.StorageClient, req berthapi.CheckRequest) (intact int, others []berthapi.Finding) {
	t.Helper()
	stream, err := client.Check(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return intact, others
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.State == "intact" {
			intact++
			continue
		}
		others = append(others, f)
	}
}

// A file of a layer is damaged under a container that runs: it is found and repaired,
// and the container does not notice.
func TestCheckAndRepair(t *testing.T) {
	p, client := runPod(t), shared.storage(t)
	c := p.run(shell("sleep 1000"))
	if intact, others := check(t, client, berthapi.CheckRequest{}); len(others) != 0 || intact < 2 {
		t.Fatalf("%d are intact, others: %+v", intact, others)
	}
	victims, err := filepath.Glob(filepath.Join(shared.Root, "layers", "*", "diff", "bin", "busybox"))
	if err != nil || len(victims) == 0 {
		t.Fatal(victims, err)
	}
	f, err := os.OpenFile(victims[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), st.Size()); err != nil { // behind what runs
		t.Fatal(err)
	}
	f.Close()
	if _, others := check(t, client, berthapi.CheckRequest{}); len(others) != 1 || others[0].State != "damaged" {
		t.Fatalf("%+v", others)
	}
	if _, others := check(t, client, berthapi.CheckRequest{Repair: true}); len(others) != 1 || others[0].State != "repaired" {
		t.Fatalf("%+v", others)
	}
	if _, others := check(t, client, berthapi.CheckRequest{}); len(others) != 0 {
		t.Fatalf("%+v", others)
	}
	same(t, "output of the container that runs", strings.TrimSpace(c.sh("echo still here")), "still here")
	same(t, "output of a new one", strings.TrimSpace(p.output(shell("echo new"))), "new")
	after, err := os.Stat(victims[0])
	if err != nil || after.Size() != st.Size() {
		t.Errorf("%v, %v", after, err)
	}
	stream, err := client.Check(context.Background(), berthapi.CheckRequest{Images: []string{"none/such:1"}})
	if err == nil {
		_, err = stream.Recv()
	}
	same(t, "code for an unknown image", status.Code(err), codes.NotFound)
}

// Images and writable layers are where the configuration says, and reported there.
func TestStorageDirectories(t *testing.T) {
	dir := shortDir(t)
	images, writable := filepath.Join(dir, "images"), filepath.Join(dir, "writable")
	d := ownDaemonIn(t, dir, "images: {dir: "+images+"}\nruntime: {writableDir: "+writable+"}\n")
	d.pull(t, busybox)
	c := d.runPod(t).run(shell("head -c 300000 /dev/zero > /written; sleep 1000"))
	var s *runtimeapi.ContainerStats
	eventually(t, "what the container has written is counted", func() bool {
		var err error
		if s, err = d.runtime.ContainerStats(t.Context(), c.id); err != nil {
			t.Fatal(err)
		}
		return s.GetWritableLayer().GetUsedBytes().GetValue() >= 300000
	})
	same(t, "file system in the stats", s.WritableLayer.FsId.GetMountpoint(), writable)
	info, err := d.images.ImageFsInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "file system of images", info.ImageFilesystems[0].FsId.GetMountpoint(), images)
	same(t, "file system of containers", info.ContainerFilesystems[0].FsId.GetMountpoint(), writable)
	for _, pattern := range []string{images + "/layers/*", writable + "/rootfs/" + c.id} {
		if len(glob(t, pattern)) == 0 {
			t.Errorf("nothing is at %s", pattern)
		}
	}
	if left := append(glob(t, d.Root+"/layers/*"), glob(t, d.Root+"/rootfs/*")...); len(left) > 0 {
		t.Errorf("in the root directory: %q", left)
	}
}
