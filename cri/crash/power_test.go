package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/berth-cri/berth/hack/testnode"
)

// TestPowerCut takes the power away at random moments of a workload, and once when
// the images have been on the disk for a while: those are still there then.
func TestPowerCut(t *testing.T) {
	const size, cuts = 256 << 20, 4
	random := rand.New(rand.NewPCG(seed(t), 0))
	d := newDisk(t, size)
	n := newNode(t)
	n.Root = filepath.Join(d.dir, "lib")
	start(t, n, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &workload{n: n, ctx: ctx, logs: t.TempDir()}
	done := make(chan []error, 1)
	go func() { done <- w.run() }()
	var after []string
	cut := func() string {
		path := filepath.Join(t.TempDir(), fmt.Sprint("cut", len(after)))
		d.cutPower(t, 1+random.IntN(200), path, random)
		after = append(after, path)
		return path
	}
	for range cuts {
		time.Sleep(200*time.Millisecond + time.Duration(random.IntN(2000))*time.Millisecond)
		cut()
	}
	cancel()
	for _, err := range <-done {
		t.Errorf("before the power failed: %v", err)
	}
	for i, path := range after {
		t.Run("while it works", func(t *testing.T) { checkAfterCut(t, path, i, nil) })
	}
	// What is on the disk when a call of sync would be long over.
	if err := n.RemovePods(t.Context()); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, img := range images {
		if err := pull(t.Context(), n, img.name); err != nil {
			t.Fatal(err)
		}
		want = append(want, img.id)
	}
	eventually(t, "the layers are on the disk", func() error { return unsynced(n) })
	time.Sleep(time.Second) // records follow the layers
	// The same images get more names: they are on the disk all the while.
	renamed := rename(t, n)
	for range cuts {
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		path := cut()
		t.Run("while names come", func(t *testing.T) { checkAfterCut(t, path, cuts+len(after), want) })
	}
	renamed()
	last := cut()
	t.Run("when it is done", func(t *testing.T) { checkAfterCut(t, last, cuts, want) })
	if err := n.Stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// checkAfterCut starts berthd on the disk that a power loss has left, in another
// boot, and looks at what is there. Images in want are.
func checkAfterCut(t *testing.T, file string, number int, want []string) {
	t.Helper()
	repair(t, file)
	dir := mountpoint(t)
	mount(t, file, dir)
	n := newNode(t)
	n.Root = filepath.Join(dir, "lib")
	n.Through = otherBoot(t, number)
	start(t, n, "")
	have := map[string]bool{}
	for _, img := range list(t, n) {
		have[img.Id] = true
	}
	for _, id := range want {
		if !have[id] {
			t.Errorf("image %s is lost", id)
		}
	}
	verifyAfter(t, n, true)
	empty(t, n)
}

// rename gives the images one name after the other, until the function that it returns
// is called.
func rename(t *testing.T, n *testnode.Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for _, name := range alias {
			time.Sleep(20 * time.Millisecond)
			err := pull(ctx, n, name)
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("while names come: %v", err)
		}
	}
}

// unsynced tells of a layer that is not marked to be on the disk.
func unsynced(n *testnode.Node) error {
	for _, name := range names(n, "layers") {
		if _, err := os.Lstat(filepath.Join(n.Root, "layers", name, "synced")); err != nil {
			return err
		}
	}
	return nil
}
