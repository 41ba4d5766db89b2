package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/hack/testnode"
	"github.com/berth-cri/berth/imageservice/failpoint"
)

// workload pulls, loads, commits, names, mounts and removes in parallel until berthd has ended or
// ctx has: images that share layers, one that is damaged, and a name that moves.
type workload struct {
	n    *testnode.Node
	ctx  context.Context
	logs string

	mu   sync.Mutex
	errs []error
}

// pods numbers the pods of this process.
var pods atomic.Int64

// run returns the errors that calls ended with, without those of a berthd that has
// gone.
func (w *workload) run() []error {
	var wg sync.WaitGroup
	for i, img := range images {
		wg.Go(func() { w.repeat(func(round int) error { return w.use(img.name, (round+i)%2 == 0) }) })
	}
	wg.Go(func() { w.repeat(func(int) error { return w.move() }) })
	wg.Go(func() { w.repeat(func(int) error { return w.load() }) })
	wg.Go(func() { w.repeat(func(int) error { return w.commit() }) })
	wg.Wait()
	return w.failures()
}

// failures are the errors so far.
func (w *workload) failures() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

func (w *workload) repeat(f func(round int) error) {
	for round := 0; w.ctx.Err() == nil; round++ {
		err := f(round)
		if status.Code(err) == codes.Unavailable && !strings.Contains(err.Error(), "pull image") || w.ctx.Err() != nil {
			return // berthd has gone
		}
		if err != nil {
			w.mu.Lock()
			w.errs = append(w.errs, err)
			w.mu.Unlock()
		}
	}
}

// use pulls an image, makes a container of it every other time, and removes it.
func (w *workload) use(name string, container bool) error {
	if err := pull(w.ctx, w.n, name); err != nil {
		return err
	}
	if container {
		if err := runPod(w.ctx, w.n, name, w.logs, nil, nil); err != nil {
			return err
		}
	}
	return remove(w.ctx, w.n, name)
}

// move pulls what is damaged, and the name that moves, twice.
func (w *workload) move() error {
	err := pull(w.ctx, w.n, damaged)
	if status.Code(err) != codes.DataLoss {
		return fmt.Errorf("the damaged image: %w", cmpErr(err))
	}
	for range 2 {
		if err := pull(w.ctx, w.n, moving); err != nil {
			return err
		}
	}
	return remove(w.ctx, w.n, moving)
}

// load brings an image from an archive, gives it another name in place of its own, and
// removes it.
func (w *workload) load() error {
	c := berthapi.NewTransfersClient(w.n.Conn())
	if err := c.Load(w.ctx, berthapi.LoadRequest{}, bytes.NewReader(archive), func(berthapi.LoadEvent) {}); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if _, err := c.Tag(w.ctx, berthapi.TagRequest{Image: loaded.name, Name: loaded.name + "-again"}); err != nil {
		return fmt.Errorf("tag: %w", err)
	}
	if _, err := c.Untag(w.ctx, berthapi.UntagRequest{Name: loaded.name}); err != nil {
		return fmt.Errorf("untag: %w", err)
	}
	return remove(w.ctx, w.n, loaded.id)
}

// commit changes a container, makes an image of it, and removes that.
func (w *workload) commit() error {
	if err := pull(w.ctx, w.n, changed); err != nil {
		return err
	}
	var made berthapi.Committed
	err := runPod(w.ctx, w.n, changed, w.logs, nil, func(container string) (err error) {
		c := berthapi.NewContainersClient(w.n.Conn())
		if err := c.CopyIn(w.ctx, berthapi.CopyRequest{ContainerID: container, Path: "/"}, bytes.NewReader(changes)); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		if made, err = c.Commit(w.ctx, berthapi.CommitRequest{ContainerID: container, Name: committed}); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return remove(w.ctx, w.n, made.ID)
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("it was pulled")
	}
	return err
}

func pull(ctx context.Context, n *testnode.Node, name string) error {
	_, err := n.Images().PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return err
}

func remove(ctx context.Context, n *testnode.Node, name string) error {
	_, err := n.Images().RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return err
}

// runPod makes a pod with one container and removes it. With a command, the container
// runs it and must end well; without, it is only made. with, when not nil, does something
// with the container before that.
func runPod(ctx context.Context, n *testnode.Node, image, logs string, command []string, with func(container string) error) (err error) {
	number := pods.Add(1)
	name := fmt.Sprint("p", number)
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: name, Namespace: "crash"},
		LogDirectory: logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}},
	}
	pod, err := n.Runtime().RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return err
	}
	defer func() {
		_, serr := n.Runtime().StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		if serr == nil {
			_, serr = n.Runtime().RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
		}
		if err == nil {
			err = serr
		}
	}()
	made, err := n.Runtime().CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, SandboxConfig: config,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: image},
			Command: command, LogPath: name + ".log",
		}})
	if err == nil && with != nil {
		err = with(made.ContainerId)
	}
	if err != nil || command == nil {
		return err
	}
	if _, err := n.Runtime().StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return err
	}
	return awaitExit(ctx, n, made.ContainerId)
}

func awaitExit(ctx context.Context, n *testnode.Node, id string) error {
	for {
		s, err := n.Runtime().ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		if s.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			if s.Status.ExitCode != 0 {
				return fmt.Errorf("the container ended with %d: %s", s.Status.ExitCode, s.Status.Message)
			}
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// startWith starts berthd with a failpoint.
func startWith(t *testing.T, n *testnode.Node, point string) error {
	t.Helper()
	if err := os.Remove(hits(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	n.Env = []string{failpoint.Env + "=" + point, failpoint.HitsEnv + "=" + hits(n)}
	return n.Start(t.Context())
}

// hits is where berthd writes down what becomes of its failpoint.
func hits(n *testnode.Node) string { return n.Log + "-hits" }

// acted tells of a failpoint that has not done anything yet.
func acted(n *testnode.Node) error {
	passed, err := os.ReadFile(hits(n))
	if err == nil && !strings.Contains(string(passed), "hit\n") {
		err = errors.New("the failpoint is not reached")
	}
	return err
}
