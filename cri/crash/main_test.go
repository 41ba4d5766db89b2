package crash

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-cri/berth/hack/testnode"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// What all tests share; set by TestMain.
var (
	bin      string // directory of the programs, berthd with failpoints
	registry *imagetest.Registry
	images   []image // complete ones
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of crashes run pods and need root")
		return 1
	}
	dir, err := os.MkdirTemp("", "berth-crash-")
	defer func() { os.RemoveAll(dir) }()
	if err == nil {
		err = setUp(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "set up the tests of crashes:", err)
		return 1
	}
	defer registry.Close()
	return m.Run()
}

func setUp(dir string) error {
	bin = filepath.Join(dir, "bin")
	build := exec.Command("make", "-s", "build", "BIN="+bin, "BERTHD_TAGS=failpoint")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	var err error
	if registry, err = imagetest.Serve("127.0.0.1:0"); err != nil {
		return err
	}
	images, err = makeImages(registry)
	return err
}

// nodes counts the daemons of this process.
var nodes atomic.Int32

// newNode lays out a node, without starting it, that goes with the test.
func newNode(t *testing.T) *testnode.Node {
	t.Helper()
	dir, err := os.MkdirTemp("", "bcr-") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return nodeIn(t, dir)
}

// nodeIn is newNode with a directory that is there.
func nodeIn(t *testing.T, dir string) *testnode.Node {
	t.Helper()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	n, err := testnode.New(testnode.Options{
		Dir: filepath.Join(dir, "n"), Bin: bin, Subnet: 201,
		Bridge: fmt.Sprintf("bc%d-%d", os.Getpid()%1_000_000, nodes.Add(1)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("berthd's log:\n%s", tail(n.Log, 60))
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := n.Close(ctx); err != nil {
			t.Errorf("close the node: %v", err)
		}
	})
	return n
}

// start starts berthd with one failpoint, or none.
func start(t *testing.T, n *testnode.Node, failpoint string) {
	t.Helper()
	if err := startWith(t, n, failpoint); err != nil {
		t.Fatalf("%v\n%s", err, tail(n.Log, 20))
	}
}

// patience is how long anything may take, on the slowest machine.
const patience = 2 * time.Minute

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Errorf("%s: %v", what, err)
}
