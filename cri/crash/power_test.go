package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-cri/berth/hack/testnode"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// TestPowerCut takes the power away at random moments of a workload, and once when
// the images have been on the disk for a while: those are still there then.
func TestPowerCut(t *testing.T) {
	const cuts = 3
	random := rand.New(rand.NewPCG(seed(t), 0))
	n, d := nodeOn(t)
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
	eventually(t, "the images are on the disk", func() error { return unsynced(n) })
	time.Sleep(time.Second) // the last record follows its mark
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

// TestPowerCutInSync takes the power away between two steps of bringing things to the
// disk. What was there before is there.
func TestPowerCutInSync(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 0))
	n, d := nodeOn(t)
	start(t, n, "")
	first, others := images[0], images[1:]
	if err := pull(t.Context(), n, first.name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first image is on the disk", func() error { return unsynced(n) })
	stop := func(t *testing.T) {
		t.Helper()
		if err := n.Stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	stop(t)
	for i, p := range some(t, points(t)) {
		if !strings.Contains(p.name, "/sync/") {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			start(t, n, p.name+"=sleep:100ms@1+")
			for _, img := range others {
				if err := pull(t.Context(), n, img.name); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, p.name, func() error { return acted(n) })
			path := filepath.Join(t.TempDir(), "cut")
			d.cutPower(t, 1+random.IntN(50), path, random)
			checkAfterCut(t, path, 1000+i, []string{first.id})
			for _, img := range others {
				if err := remove(t.Context(), n, img.id); err != nil {
					t.Error(err)
				}
			}
			stop(t)
		})
	}
}

// TestResumeAfterPowerCut cuts the power while a blob comes slowly, if not for long: after
// the boot, no more than 4 MiB of what had come is fetched again.
func TestResumeAfterPowerCut(t *testing.T) {
	const before, mayFetchTwice = 11 << 20, 4 << 20
	r, err := imagetest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	big := filesLayer("slow", 1, 24<<20).layer
	name, err := r.Push("crash/slow", "1", imagetest.New(big))
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowly{until: before}
	r.Wrap(slow.wrap(big.Descriptor.Digest.Encoded()))
	n, d := nodeOn(t)
	start(t, n, "")
	pulled := make(chan error, 1)
	go func() { pulled <- pull(t.Context(), n, name) }()
	eventually(t, "most of the blob", func() error {
		if got := slow.served.Load(); got < before-1<<20 {
			return fmt.Errorf("%d bytes are served", got)
		}
		return nil
	})
	// On their way, to berthd and to the disk. The kernel would write them after 30 seconds.
	time.Sleep(3 * time.Second)
	path := filepath.Join(t.TempDir(), "cut")
	d.cutPower(t, 1<<20, path, rand.New(rand.NewPCG(seed(t), 0)))
	if err := n.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-pulled; err == nil {
		t.Error("the image was pulled")
	}
	slow.until = 1 << 40
	repair(t, path)
	n = newNode(t)
	dir := mountpoint(t)
	mount(t, path, dir)
	n.Root, n.Through = filepath.Join(dir, "lib"), otherBoot(t, 2000)
	start(t, n, "")
	if err := pull(t.Context(), n, name); err != nil {
		t.Fatal(err)
	}
	if twice := slow.served.Load() - int64(len(big.Blob)); twice > mayFetchTwice {
		t.Errorf("%d bytes were fetched twice", twice)
	}
}

// slowly lets the bytes of a blob through at some MiB a second, up to a limit.
type slowly struct {
	until  int64 // changes while nobody is served
	served atomic.Int64
}

func (s *slowly) wrap(blob string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, blob) {
				w = &slowWriter{w, s, req.Context()}
			}
			next.ServeHTTP(w, req)
		})
	}
}

type slowWriter struct {
	http.ResponseWriter
	s   *slowly
	ctx context.Context
}

// Write implements io.Writer. What is over the limit waits for the client to leave.
func (w *slowWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		m := min(len(p)-n, 64<<10)
		if w.s.served.Add(int64(m)) > w.s.until {
			w.s.served.Add(-int64(m))
			<-w.ctx.Done()
			return n, w.ctx.Err()
		}
		m, err := w.ResponseWriter.Write(p[n : n+m])
		if n += m; err != nil {
			return n, err
		}
		w.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(12 * time.Millisecond)
	}
	return len(p), nil
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

// unsynced tells of a layer or image that is not marked to be on the disk.
func unsynced(n *testnode.Node) error {
	for _, dir := range []string{"layers", "images"} {
		for _, name := range names(n, dir) {
			if _, err := os.Lstat(filepath.Join(n.Root, dir, name, "synced")); err != nil {
				return err
			}
		}
	}
	return nil
}
