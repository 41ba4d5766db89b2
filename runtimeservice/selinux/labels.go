// Package selinux chooses the SELinux labels of pods and containers, and labels
// volumes with them.
//
// A label is a context of the node's policy, user:role:type:level. Processes of
// containers have the type that the policy gives containers, their files another
// one that only such processes may use, and what keeps one pod from the files of
// another is the level: two categories that no other pod of the node has. The
// level is held from before a pod is made until its record is gone; who reads the
// records at start holds them again with Hold.
//
// Where the kernel has no SELinux, or no policy is loaded, all labels are empty and
// what requests say about them means nothing.
package selinux

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels are those of the processes of a pod or a container and of the files that
// belong to it. The zero value is none.
type Labels struct {
	Process, File string
}

// System is what the kernel and its policy say.
type System interface {
	// Enabled is true where the kernel has SELinux and a policy is loaded, be it
	// enforced or not.
	Enabled() bool
	// Contexts are those that the policy gives the processes and the files of
	// containers; empty where it knows nothing of containers. Their level is any.
	Contexts() (process, file string)
	// Check fails for a context that the policy does not allow to exist.
	Check(context string) error
}

// categories is how many there are in the policies of distributions, c0 to c1023.
const categories = 1024

// Node gives pods and containers their labels. It is safe for concurrent use.
type Node struct {
	system        System
	process, file parts
	// category returns a random number below n.
	category func(n int) int

	mu sync.Mutex
	// held is the level that each pod, and each container with one of its own,
	// holds; users counts them.
	held  map[string]string
	users map[string]int
}

// Off makes a Node without labels.
func Off() *Node {
	return &Node{category: rand.IntN, held: make(map[string]string), users: make(map[string]int)}
}

// New asks the system what it has.
func New(system System) (*Node, error) {
	n := Off()
	if !system.Enabled() {
		return n, nil
	}
	n.system = system
	process, file := system.Contexts()
	if process == "" || file == "" {
		return n, nil
	}
	var err error
	if n.process, err = parse(process); err == nil {
		n.file, err = parse(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the contexts of containers of the SELinux policy: %w", err)
	}
	return n, nil
}

// Enabled tells whether labels mean anything on this node.
func (n *Node) Enabled() bool { return n.system != nil }

// KnowsContainers tells whether the policy has contexts for containers: without,
// those that ask for nothing have no label.
func (n *Node) KnowsContainers() bool { return n.process != parts{} }

// Pod gives a pod its labels and has it hold their level, until Release: the one
// that is asked for, else one that nobody else holds. Errors are InvalidArgument
// for a context that the policy does not have, FailedPrecondition for any where
// the policy knows nothing of containers, and ResourceExhausted when there is no
// level left.
func (n *Node) Pod(id string, asked *runtimeapi.SELinuxOption) (Labels, error) {
	if !n.KnowsContainers() {
		return Labels{}, n.refuse(asked)
	}
	process, file := n.process, n.file
	process.level, file.level = "", ""
	if n.process.level != "" {
		level, err := n.hold(id, asked.GetLevel())
		if err != nil {
			return Labels{}, err
		}
		process.level, file.level = level, level
	}
	l, err := n.with(process, file, asked)
	if err != nil {
		n.Release(id)
	}
	return l, err
}

// Container gives a container its labels: the pod's, but for what it asks for
// itself. A level of its own it holds until Release. Errors are those of Pod.
func (n *Node) Container(id string, pod Labels, asked *runtimeapi.SELinuxOption) (Labels, error) {
	if !n.KnowsContainers() {
		return Labels{}, n.refuse(asked)
	}
	if pod == (Labels{}) {
		return Labels{}, nil // it was made before there were labels: its files have none
	}
	process, err := parse(pod.Process)
	if err != nil {
		return Labels{}, err
	}
	file, err := parse(pod.File)
	if err != nil {
		return Labels{}, err
	}
	// What the pod asked for is in its process label; the kubelet says for each
	// container all that holds for it.
	if asked.GetLevel() != "" && asked.GetLevel() != process.level {
		if _, err := n.hold(id, asked.GetLevel()); err != nil {
			return Labels{}, err
		}
	}
	l, err := n.with(process, file, asked)
	if err != nil {
		n.Release(id)
	}
	return l, err
}

// Hold has a pod or a container of the last run hold the level that it has; labels
// without one are no error.
func (n *Node) Hold(id string, l Labels) {
	if c, err := parse(l.Process); err == nil && c.level != "" {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.take(id, c.level)
	}
}

// Release gives up what the pod or the container holds; idempotent.
func (n *Node) Release(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(id)
}

// Relabel labels the files of a volume; see the function of that name.
func (n *Node) Relabel(ctx context.Context, path, label string) error {
	return Relabel(ctx, path, label)
}

func (n *Node) refuse(asked *runtimeapi.SELinuxOption) error {
	if !n.Enabled() || empty(asked) {
		return nil
	}
	return fmt.Errorf("the SELinux policy of this node has no contexts for containers (lxc_contexts): %w", errdefs.ErrFailedPrecondition)
}

func empty(o *runtimeapi.SELinuxOption) bool {
	return o.GetUser() == "" && o.GetRole() == "" && o.GetType() == "" && o.GetLevel() == ""
}

// with puts what is asked for in the place of what is there. Files of a user's
// processes belong to that user; their type stays that of the files of containers.
func (n *Node) with(process, file parts, asked *runtimeapi.SELinuxOption) (Labels, error) {
	if err := check(asked); err != nil {
		return Labels{}, err
	}
	set := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	set(&process.user, asked.GetUser())
	set(&file.user, asked.GetUser())
	set(&process.role, asked.GetRole())
	set(&process.kind, asked.GetType())
	set(&process.level, asked.GetLevel())
	set(&file.level, asked.GetLevel())
	l := Labels{Process: process.String(), File: file.String()}
	if empty(asked) {
		return l, nil
	}
	for _, c := range []string{l.Process, l.File} {
		if err := n.system.Check(c); err != nil {
			return Labels{}, fmt.Errorf("the SELinux policy of this node does not allow the context %q: %w: %w", c, err, errdefs.ErrInvalidArgument)
		}
	}
	return l, nil
}

// hold has id hold the level, or one that nobody holds if it is empty.
func (n *Node) hold(id, level string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if level == "" {
		var err error
		if level, err = n.unused(); err != nil {
			return "", err
		}
	}
	n.take(id, level)
	return level, nil
}

func (n *Node) take(id, level string) {
	n.drop(id)
	n.held[id] = level
	n.users[level]++
}

func (n *Node) drop(id string) {
	level, ok := n.held[id]
	if !ok {
		return
	}
	delete(n.held, id)
	if n.users[level]--; n.users[level] == 0 {
		delete(n.users, level)
	}
}

// unused finds a level that nobody holds. There are half a million, so the first
// one drawn nearly always is one.
func (n *Node) unused() (string, error) {
	for range 2 * categories {
		a, b := n.category(categories), n.category(categories)
		if a == b {
			continue
		}
		level := "s0:c" + strconv.Itoa(min(a, b)) + ",c" + strconv.Itoa(max(a, b))
		if n.users[level] == 0 {
			return level, nil
		}
	}
	return "", fmt.Errorf("find an SELinux level for the pod: no two categories are free: %w", errdefs.ErrResourceExhausted)
}

// parts are those of a context; kind is what SELinux calls type. In a policy without
// levels there are three.
type parts struct {
	user, role, kind, level string
}

var errNoContext = errors.New("not of the form user:role:type or user:role:type:level")

func parse(s string) (parts, error) {
	p := strings.SplitN(s, ":", 4)
	if len(p) < 3 {
		return parts{}, fmt.Errorf("SELinux context %q: %w", s, errNoContext)
	}
	c := parts{user: p[0], role: p[1], kind: p[2]}
	if len(p) == 4 {
		c.level = p[3]
	}
	return c, nil
}

func (c parts) String() string {
	s := c.user + ":" + c.role + ":" + c.kind
	if c.level != "" {
		s += ":" + c.level
	}
	return s
}

// check refuses parts that would be more than one part of a context, or of the
// options of a mount.
func check(o *runtimeapi.SELinuxOption) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	for name, p := range map[string]struct{ value, allowed string }{
		"user":  {o.GetUser(), letters},
		"role":  {o.GetRole(), letters},
		"type":  {o.GetType(), letters},
		"level": {o.GetLevel(), letters + ":,"},
	} {
		if strings.Trim(p.value, p.allowed) != "" {
			return fmt.Errorf("selinux_options.%s: %q is not one of an SELinux context: %w", name, p.value, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
