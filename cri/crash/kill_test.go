package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-cri/berth/hack/testnode"
)

// CRASH_N is how often TestKillAtRandomSteps kills, CRASH_SEED what it chooses by.
const (
	countEnv = "CRASH_N"
	seedEnv  = "CRASH_SEED"
)

// point is a failpoint in the source.
type point struct {
	name    string
	canFail bool // it is a Hit, not a Pass
}

var pointPattern = regexp.MustCompile(`failpoint\.(Hit|Pass)\("([^"]+)"\)`)

// points are all that the source has.
func points(t *testing.T) []point {
	t.Helper()
	var found []point
	err := filepath.WalkDir("../..", func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() && strings.HasPrefix(e.Name(), ".") && len(e.Name()) > 2 {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		for _, m := range pointPattern.FindAllStringSubmatch(string(source), -1) {
			found = append(found, point{m[2], m[1] == "Hit"})
		}
		return err
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("%d failpoints found: %v", len(found), err)
	}
	slices.SortFunc(found, func(a, b point) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(found); i++ {
		if found[i].name == found[i-1].name {
			t.Errorf("two failpoints are called %s", found[i].name)
		}
	}
	return found
}

// some are all points, or with -short about half of them, by chance.
func some(t *testing.T, all []point) []point {
	t.Helper()
	if !testing.Short() {
		return all
	}
	random := rand.New(rand.NewPCG(seed(t), 0))
	return slices.DeleteFunc(all, func(point) bool { return random.IntN(2) == 0 })
}

// crash runs the workload for a while, or until berthd ends at the failpoint, and starts
// another. It tells whether the first one has ended there.
func crash(t *testing.T, n *testnode.Node, at string, during time.Duration) bool {
	t.Helper()
	ended := killed(t, n, at, during)
	start(t, n, "")
	return ended
}

// killed is crash without the start that follows.
func killed(t *testing.T, n *testnode.Node, at string, during time.Duration) bool {
	t.Helper()
	err := startWith(t, n, at)
	if n.PID() == 0 {
		return true // on its way to serve
	}
	if err != nil {
		t.Fatal(err)
	}
	return workUntilEnd(t, n, during)
}

// workUntilEnd runs the workload until berthd ends by itself, or for a while; then it is
// killed.
func workUntilEnd(t *testing.T, n *testnode.Node, during time.Duration) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), during)
	defer cancel()
	w := &workload{n: n, ctx: ctx, logs: t.TempDir()}
	done := make(chan []error, 1)
	go func() { done <- w.run() }()
	err := n.AwaitEnd(ctx)
	cancel()
	for _, e := range <-done {
		t.Errorf("before the end: %v", e)
	}
	if err != nil {
		if err := n.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	return err == nil
}

// TestKillAtEveryStep kills berthd when it first comes to each step. There is no
// failpoint that it does not come to.
func TestKillAtEveryStep(t *testing.T) {
	n := newNode(t)
	for i, p := range some(t, points(t)) {
		t.Run(p.name, func(t *testing.T) {
			// Another kill leaves something to do for the start.
			if p.name == "store/sweep" && !killed(t, n, "layer/file=kill", patience) {
				t.Fatal("there is nothing to sweep")
			}
			if !crash(t, n, p.name+"=kill", patience) {
				t.Errorf("%s is never reached", p.name)
			}
			verify(t, n)
			if i%2 == 0 {
				empty(t, n)
			}
			if err := n.Stop(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKillAtRandomSteps kills berthd at any of the steps that it goes through, some
// of them while it starts or stops. CRASH_SEED repeats a run as far as the
// scheduler does.
func TestKillAtRandomSteps(t *testing.T) {
	count, seed := 40, seed(t)
	if s := os.Getenv(countEnv); s != "" {
		var err error
		if count, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", countEnv, err)
		}
	}
	random := rand.New(rand.NewPCG(seed, 0))
	n := newNode(t)
	for i := range count {
		// The steps of the first second or so of a workload; small numbers are those
		// of the start.
		step := 1 + random.IntN(1<<(3+random.IntN(11)))
		fresh := random.IntN(3) == 0
		if !crash(t, n, fmt.Sprintf("*=kill@%d", step), 15*time.Second) {
			t.Logf("kill %d: berthd did not come to step %d", i, step)
		}
		verify(t, n)
		if fresh {
			empty(t, n)
		}
		signal := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[random.IntN(2)]
		if err := n.Stop(signal); err != nil && signal == syscall.SIGTERM {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("after kill %d of %d, at step %d, %s=%d", i+1, count, step, seedEnv, seed)
		}
	}
}

// seed is what random choices are made by: that of the environment, or a new one.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv(seedEnv); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
	}
	t.Logf("%s=%d", seedEnv, n)
	return n
}
