package crash

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-cri/berth/hack/testnode"
)

const diskSize = 192 << 20

// workUntil runs the workload until f returns and returns the errors of its calls.
func workUntil(t *testing.T, n *testnode.Node, f func(*workload)) []error {
	t.Helper()
	// No deadline goes with the calls: they are cut off.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &workload{n: n, ctx: ctx, logs: t.TempDir()}
	go func() {
		defer cancel()
		f(w)
	}()
	errs := w.run()
	if _, err := n.Images().ListImages(t.Context(), nil); err != nil {
		t.Fatalf("berthd does not serve any more: %v", err)
	}
	return errs
}

// TestErrorAtEveryStep has each step fail once, as a disk would. The same berthd sees
// to it that nothing is left of that.
func TestErrorAtEveryStep(t *testing.T) {
	n := newNode(t)
	for i, p := range some(t, points(t)) {
		if !p.canFail {
			continue
		}
		kind := []string{"EIO", "ENOSPC"}[i%2]
		t.Run(p.name+"="+kind, func(t *testing.T) {
			start(t, n, p.name+"="+kind+"@2")
			errs := workUntil(t, n, func(*workload) {
				eventually(t, p.name, func() error { return acted(n) })
				time.Sleep(300 * time.Millisecond) // some go on
			})
			for _, err := range errs {
				t.Logf("a call: %v", err)
			}
			verify(t, n)
			empty(t, n)
			if err := n.Stop(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		})
	}
}

// nodeOn lays out a node that keeps its state on a disk of its own.
func nodeOn(t *testing.T) (*testnode.Node, disk) {
	t.Helper()
	d := newDisk(t, diskSize)
	n := newNode(t)
	n.Root = filepath.Join(d.dir, "lib")
	return n, d
}

// TestFullDisk leaves less and less room while images come and go: what does not fit
// is told by its name, and leaves nothing.
func TestFullDisk(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	n, d := nodeOn(t)
	start(t, n, "")
	for round := range 6 {
		left := uint64(random.IntN(24 << 20))
		if round == 0 {
			left = 1 << 20 // less than an image takes
		}
		fill(t, d, left)
		for _, err := range workUntil(t, n, func(w *workload) {
			if round == 0 {
				eventually(t, "with a full disk", w.hasFailed)
			}
			time.Sleep(time.Second)
		}) {
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("with %d bytes left: %v", left, err)
			}
		}
		if random.IntN(2) == 0 { // it has to start, too
			restart(t, n, syscall.SIGKILL)
		}
		if err := os.Remove(filepath.Join(d.dir, "fill")); err != nil {
			t.Fatal(err)
		}
		verify(t, n)
		empty(t, n)
		if t.Failed() {
			t.Fatalf("with %d bytes left", left)
		}
	}
}

// hasFailed tells of a workload without an error.
func (w *workload) hasFailed() error {
	if len(w.failures()) == 0 {
		return errors.New("no call has failed")
	}
	return nil
}

// fill takes all room of the disk but so many bytes.
func fill(t *testing.T, d disk, left uint64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(d.dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// What is for root alone counts: berthd is root.
	size := int64(st.Bfree)*st.Bsize - int64(left)
	for err = unix.ENOSPC; err != nil; size -= 1 << 18 { // the file system wants some for itself
		if err = unix.Fallocate(int(f.Fd()), 0, 0, size); size <= 0 {
			t.Fatalf("leave %d bytes: %v", left, err)
		}
	}
}

func restart(t *testing.T, n *testnode.Node, signal syscall.Signal) {
	t.Helper()
	if err := n.Stop(signal); err != nil {
		t.Fatal(err)
	}
	start(t, n, "")
}

// TestBrokenDisk has the device fail for good in the middle of the work, or only the
// file system become read-only; berthd goes on answering. Then the machine gets another
// start with a disk that works.
func TestBrokenDisk(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	n, d := nodeOn(t)
	for round := range 4 {
		n.Through = otherBoot(t, round)
		start(t, n, "")
		after := int64(random.IntN(60))
		workUntil(t, n, func(w *workload) {
			time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
			if round%2 == 0 {
				becomeReadOnly(t, d)
			} else {
				breakAfter(d, after)
			}
			eventually(t, "with a broken disk", w.hasFailed)
			time.Sleep(time.Second) // others meet it too
		})
		if err := n.RemovePods(t.Context()); err != nil {
			t.Logf("remove the pods from a broken disk: %v", err)
		}
		if err := n.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := n.EndMonitor(); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(d.dir, 0); err != nil {
			t.Fatal(err)
		}
		d.fail(nil)
		repair(t, d.path)
		command(t, "mount", "-o", mountOptions, d.path, d.dir)
		n.Through = otherBoot(t, 100+round)
		start(t, n, "")
		verifyAfter(t, n, true)
		empty(t, n)
		if err := n.Stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := n.EndMonitor(); err != nil {
			t.Fatal(err)
		}
	}
}

// breakAfter has all writes but the next few fail.
func breakAfter(d disk, few int64) {
	var writes atomic.Int64
	d.fail(func(write bool) syscall.Errno {
		if write && writes.Add(1) > few {
			return syscall.EIO
		}
		return 0
	})
}

// becomeReadOnly has the file system find an error, upon which it takes no more writes.
func becomeReadOnly(t *testing.T, d disk) {
	t.Helper()
	out, err := exec.Command("findmnt", "-n", "-o", "SOURCE", d.dir).Output()
	if err != nil {
		t.Errorf("find the device: %v", err)
		return
	}
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(string(out))), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("by a test"), 0); err != nil {
		t.Error(err)
	}
}
