package runtimeservice

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/handlers"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// fakeHandlers has the handlers of a test; the default one is "first".
type fakeHandlers map[string]handlers.Handler

func (f fakeHandlers) Resolve(name string) (string, error) {
	if name == "" {
		return "first", nil
	}
	if _, ok := f[name]; !ok {
		return "", fmt.Errorf("no handler %q: %w", name, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

func (f fakeHandlers) Find(_ context.Context, name string) (handlers.Handler, error) {
	h, ok := f[name]
	if !ok {
		return h, fmt.Errorf("handler %q is gone: %w", name, errdefs.ErrFailedPrecondition)
	}
	return h, nil
}

func (f fakeHandlers) List() []handlers.Handler { return nil }

func externalHandler(name string) handlers.Handler {
	return handlers.Handler{
		Name:     name,
		Settings: handlers.Settings{Path: "/bin/" + name, Args: []string{"--x"}, NetworkConfDirs: []string{"/etc/" + name}},
		Features: handlers.Features{OCIVersion: "1.0.7", ExecCgroup: true},
	}
}

func TestHandlerOfASandbox(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	ways := fakeHandlers{"first": externalHandler("first"), "second": {Name: "second", Features: handlers.Features{OCIVersion: "1.3.0"}}}
	s.opts.Handlers = ways

	id := mustRun(t, s, podConfig("web"))
	if pod := n.network.attached[id]; len(pod.ConfDirs) != 1 || pod.ConfDirs[0] != "/etc/first" {
		t.Errorf("the network is looked for in %q", pod.ConfDirs)
	}
	container := mustCreate(t, s, id, "app")
	c, err := s.containers.find(container)
	if err != nil {
		t.Fatal(err)
	}
	if c.spec.Version != "1.0.7" {
		t.Errorf("the specification has version %s", c.spec.Version)
	}
	// The pod keeps the handler that the empty name stood for when it was made.
	if rec := c.sandbox.rec.Load(); rec.Runtime != "first" || rec.Handler != "" {
		t.Errorf("the record has the handler %q, which is %q", rec.Handler, rec.Runtime)
	}
	got := s.monitorRuntime(ways["first"])
	if got == nil || got.Name != "first" || got.Path != "/bin/first" || !got.ExecCgroup || got.Args[0] != "--x" {
		t.Errorf("the monitor is told of %+v", got)
	}
	if got := s.monitorRuntime(ways["second"]); got != nil {
		t.Errorf("the monitor is told of %+v for itself", got)
	}
	delete(ways, "first")
	if err := s.StartContainer(t.Context(), container); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a start without the handler: %v", err)
	}
	if state := c.state(); state != record.Created {
		t.Errorf("the container is %s", state)
	}
	ways["first"] = externalHandler("first")
	if err := s.StartContainer(t.Context(), container); err != nil {
		t.Error(err)
	}
}

func TestSandboxesBeforeHandlers(t *testing.T) {
	s := newNode(t).open()
	if h, err := s.handlerOf(t.Context(), &record.Sandbox{}); err != nil || h.Name != handlers.Builtin {
		t.Errorf("got %+v, %v", h, err)
	}
}

func TestWhatAHandlerCannotDo(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	weak := externalHandler("first")
	weak.MinMemory = 1000
	s.opts.Handlers = fakeHandlers{"first": weak}
	s.userNamespaces = nil // whatever this machine has

	config := podConfig("mapped")
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userNamespaceOf(1000, 1000)
	_, err := s.RunPodSandbox(t.Context(), config, "first")
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "userns_options") || !strings.Contains(err.Error(), "/bin/first") {
		t.Errorf("a user namespace: %v", err)
	}
	n.assertEmpty()

	memory := containerConfig("small")
	memory.Linux = &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 999}}
	if err := checkHandler(weak, memory); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "memory_limit_in_bytes") {
		t.Errorf("a low limit: %v", err)
	}
	memory.Linux.Resources.MemoryLimitInBytes = 1000
	if err := checkHandler(weak, memory); err != nil {
		t.Errorf("the least limit: %v", err)
	}
	mounts := containerConfig("mounts")
	mounts.Mounts = []*runtimeapi.Mount{{}, {Readonly: true, RecursiveReadOnly: true}}
	if err := checkHandler(weak, mounts); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "config.mounts[1].recursive_read_only") {
		t.Errorf("a recursive read-only mount: %v", err)
	}
	weak.RecursiveReadOnlyMounts = true
	if err := checkHandler(weak, mounts); err != nil {
		t.Errorf("a recursive read-only mount where it can be: %v", err)
	}
}
