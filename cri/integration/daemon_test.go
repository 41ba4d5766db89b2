package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/berth-cri/berth/hack/testnode"
)

// daemon is a berthd and the kubelet's clients of it.
type daemon struct {
	*testnode.Node
	runtime criapi.RuntimeService // nil while berthd does not run
	images  criapi.ImageManagerService
}

// nodes counts the daemons of this process: each has a bridge and a subnet of
// its own.
var nodes atomic.Int32

// newDaemon starts a daemon with its directories below dir.
func newDaemon(ctx context.Context, dir, config string) (*daemon, error) {
	d, err := layOut(dir, config)
	if err != nil {
		return nil, err
	}
	if err := d.start(ctx); err != nil {
		return nil, errors.Join(err, d.Node.Close(ctx))
	}
	return d, nil
}

// layOut prepares a daemon without starting it.
func layOut(dir, config string) (*daemon, error) {
	n := nodes.Add(1)
	node, err := testnode.New(testnode.Options{
		Dir: dir, Bin: bin, Config: config,
		Bridge: fmt.Sprintf("bi%d-%d", os.Getpid()%1_000_000, n),
		Subnet: byte((os.Getpid()*7 + int(n)) % 200),
	})
	if err != nil {
		return nil, err
	}
	return &daemon{Node: node}, nil
}

// ownDaemon starts a daemon for one test.
func ownDaemon(t *testing.T, config string) *daemon {
	t.Helper()
	return ownDaemonIn(t, shortDir(t), config)
}

// ownDaemonIn is ownDaemon with its directories below dir.
func ownDaemonIn(t *testing.T, dir, config string) *daemon {
	t.Helper()
	d, err := newDaemon(t.Context(), dir, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("berthd's log:\n%s", d.logTail(60))
		}
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// shortDir is a directory whose path leaves room for those of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := passable(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// passable lets everybody pass a directory, also the root of a user namespace on
// its way to a container's root file system.
func passable(dir string) error { return os.Chmod(dir, 0o711) }

// start starts berthd and connects to it.
func (d *daemon) start(ctx context.Context) error {
	if err := d.Node.Start(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, d.logTail(20))
	}
	endpoint := "unix://" + d.Socket
	var err error
	if d.runtime, err = criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(2 * time.Minute).Build(ctx); err != nil {
		return fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	d.images, err = criclient.NewRemoteImageServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(2 * time.Minute).Build(ctx)
	return err
}

func (d *daemon) disconnect() error {
	var errs []error
	ctx := context.Background()
	if d.runtime != nil {
		errs = append(errs, d.runtime.Close(ctx))
	}
	if d.images != nil {
		errs = append(errs, d.images.Close(ctx))
	}
	d.runtime, d.images = nil, nil
	return errors.Join(errs...)
}

// restart ends berthd with the signal and starts it again.
func (d *daemon) restart(t *testing.T, signal syscall.Signal) {
	t.Helper()
	d.end(t, signal)
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// end ends berthd. The error of one that is killed is not one of the test.
func (d *daemon) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := d.disconnect(); err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(signal); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if d.runtime == nil && d.Log != "" {
		err = d.start(ctx) // a test that failed while it was down; its pods run
	}
	if d.runtime != nil {
		err = errors.Join(err, d.RemovePods(ctx), d.disconnect(), d.Stop(syscall.SIGTERM))
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, d.logTail(20))
	}
	return errors.Join(err, d.Node.Close(ctx))
}

// logTail is the end of berthd's log, without what only a debugger wants.
func (d *daemon) logTail(lines int) string {
	data, err := os.ReadFile(d.Log)
	if err != nil {
		return err.Error()
	}
	var tail []string
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, "level=DEBUG") {
			tail = append(tail, line)
		}
	}
	return strings.Join(tail[max(0, len(tail)-lines):], "")
}

// pull pulls an image and returns its ID.
func (d *daemon) pull(t testing.TB, name string) string {
	t.Helper()
	id, err := d.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: name}, nil, nil)
	if err != nil {
		t.Fatalf("pull %s: %v", name, err)
	}
	return id
}

// monitor is the process ID of the daemon's monitor.
func (d *daemon) monitor(t testing.TB) int {
	t.Helper()
	pid, err := d.MonitorPID()
	if err != nil || pid == 0 {
		t.Fatalf("no monitor runs: %v", err)
	}
	return pid
}

// writeFile writes a file, and makes its directory.
func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
