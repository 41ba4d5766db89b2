package selinux

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	anyProcess = "system_u:system_r:container_t:s0:c7,c9"
	anyFile    = "system_u:object_r:container_file_t:s0:c7,c9"
)

// policy is a System; it allows all contexts but those with the type nosuch_t.
type policy struct {
	off           bool
	process, file string
}

func (p policy) Enabled() bool              { return !p.off }
func (p policy) Contexts() (string, string) { return p.process, p.file }
func (p policy) Check(context string) error {
	if strings.Contains(context, "nosuch_t") {
		return errors.New("invalid argument")
	}
	return nil
}

func newNode(t *testing.T, p policy) *Node {
	t.Helper()
	n, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mcs(t *testing.T) *Node { return newNode(t, policy{process: anyProcess, file: anyFile}) }

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func pod(t *testing.T, n *Node, id string, asked *runtimeapi.SELinuxOption) Labels {
	t.Helper()
	l, err := n.Pod(id, asked)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func container(t *testing.T, n *Node, id string, pod Labels, asked *runtimeapi.SELinuxOption) Labels {
	t.Helper()
	l, err := n.Container(id, pod, asked)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// categoriesFrom has a node draw these numbers, over and over.
func categoriesFrom(n *Node, numbers ...int) {
	i := 0
	n.category = func(int) int { i++; return numbers[(i-1)%len(numbers)] }
}

func TestWithoutSELinux(t *testing.T) {
	for name, n := range map[string]*Node{"off": Off(), "disabled": newNode(t, policy{off: true, process: anyProcess, file: anyFile})} {
		asked := &runtimeapi.SELinuxOption{User: "u", Role: "r", Type: "nosuch_t", Level: "s0:c1"}
		same(t, name, pod(t, n, "p", asked), Labels{})
		same(t, name, container(t, n, "c", Labels{anyProcess, anyFile}, asked), Labels{})
		same(t, name, n.Enabled(), false)
		n.Release("p")
	}
}

func TestPolicyWithoutContainers(t *testing.T) {
	n := newNode(t, policy{})
	same(t, "enabled", n.Enabled(), true)
	same(t, "knows containers", n.KnowsContainers(), false)
	same(t, "labels", pod(t, n, "p", nil), Labels{})
	same(t, "labels", container(t, n, "c", Labels{}, &runtimeapi.SELinuxOption{}), Labels{})
	if _, err := n.Pod("p", &runtimeapi.SELinuxOption{Type: "container_t"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a type: %v", err)
	}
	if _, err := New(policy{process: "container_t", file: anyFile}); err == nil {
		t.Error("a context that is none is taken")
	}
}

func TestPodHasALevelOfItsOwn(t *testing.T) {
	n := mcs(t)
	categoriesFrom(n, 5, 5, 9, 2, 2, 9, 1023, 0)
	first := pod(t, n, "p1", nil)
	same(t, "first", first, Labels{"system_u:system_r:container_t:s0:c2,c9", "system_u:object_r:container_file_t:s0:c2,c9"})
	same(t, "second", pod(t, n, "p2", &runtimeapi.SELinuxOption{}).Process, "system_u:system_r:container_t:s0:c0,c1023")
	same(t, "a container", container(t, n, "c1", first, nil), first)
	n.Release("p1")
	n.Release("p1")
	categoriesFrom(n, 2, 9)
	same(t, "after the release", pod(t, n, "p3", nil), first)
	if _, err := n.Pod("p4", nil); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a level that is held is given again: %v", err)
	}
}

func TestLevelsAreUnique(t *testing.T) {
	n := mcs(t)
	var (
		mu   sync.Mutex
		seen = map[Labels]bool{}
		all  sync.WaitGroup
	)
	for i := range 8 {
		all.Go(func() {
			for j := range 500 {
				l, err := n.Pod(string(rune('a'+i))+string(rune(j)), nil)
				mu.Lock()
				if err != nil || seen[l] {
					t.Errorf("%v a second time, %v", l, err)
				}
				seen[l] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

func TestAskedFor(t *testing.T) {
	n := mcs(t)
	p := pod(t, n, "p", &runtimeapi.SELinuxOption{User: "user_u", Role: "role_r", Type: "type_t", Level: "s0:c3,c4"})
	same(t, "pod", p, Labels{"user_u:role_r:type_t:s0:c3,c4", "user_u:object_r:container_file_t:s0:c3,c4"})
	same(t, "its container", container(t, n, "c", p, &runtimeapi.SELinuxOption{}), p)
	own := container(t, n, "c", p, &runtimeapi.SELinuxOption{Type: "spc_t", Level: "s0:c5.c7"})
	same(t, "container", own, Labels{"user_u:role_r:spc_t:s0:c5.c7", "user_u:object_r:container_file_t:s0:c5.c7"})
	for _, o := range []*runtimeapi.SELinuxOption{
		{Type: "nosuch_t"}, {User: "a:b"}, {Role: `r"`}, {Type: "x,rootcontext=y"}, {Type: "a b"}, {Level: "s0\""}, {Level: "s0 c1"}, {Type: "x\x00"},
	} {
		if l, err := n.Pod("q", o); !errdefs.IsInvalidArgument(err) || l != (Labels{}) {
			t.Errorf("%v: %v %v", o, l, err)
		}
		if l, err := n.Container("d", p, o); !errdefs.IsInvalidArgument(err) || l != (Labels{}) {
			t.Errorf("%v: %v %v", o, l, err)
		}
	}
	same(t, "what is held", len(n.held), 2)
}

// Two pods may ask for one level; it is free when both are gone. What a container
// asks for is held too, by the container.
func TestSharedLevel(t *testing.T) {
	n := mcs(t)
	asked := &runtimeapi.SELinuxOption{Level: "s0:c1,c2"}
	pod(t, n, "p1", asked)
	p2 := pod(t, n, "p2", asked)
	container(t, n, "c", p2, asked)
	container(t, n, "d", p2, &runtimeapi.SELinuxOption{Level: "s0:c3,c4"})
	n.Release("p1")
	n.Release("c")
	categoriesFrom(n, 1, 2, 3, 4)
	if l, err := n.Pod("p3", nil); err == nil {
		t.Errorf("%v is held", l)
	}
	n.Release("p2")
	n.Release("d")
	same(t, "what is held", len(n.users)+len(n.held), 0)
	pod(t, n, "p3", nil)
}

func TestHoldAfterARestart(t *testing.T) {
	before := mcs(t)
	l := pod(t, before, "p", nil)
	after := mcs(t)
	after.Hold("p", l)
	after.Hold("p", l)
	after.Hold("unlabelled", Labels{})
	after.Hold("no levels", Labels{Process: "u:r:t", File: "u:r:f"})
	same(t, "what is held", len(after.held), 1)
	c, err := parse(l.Process)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "its level", after.held["p"], c.level)
	after.Release("p")
	same(t, "what is held", len(after.users), 0)
}

func TestPolicyWithoutLevels(t *testing.T) {
	n := newNode(t, policy{process: "system_u:system_r:container_t", file: "system_u:object_r:container_file_t"})
	want := Labels{"system_u:system_r:container_t", "system_u:object_r:container_file_t"}
	same(t, "first", pod(t, n, "p1", nil), want)
	same(t, "second", pod(t, n, "p2", nil), want)
	same(t, "what is held", len(n.held), 0)
}

// A pod of before SELinux was turned on has files without labels.
func TestContainerOfAnUnlabelledPod(t *testing.T) {
	same(t, "labels", container(t, mcs(t), "c", Labels{}, &runtimeapi.SELinuxOption{Level: "s0:c1,c2"}), Labels{})
}
