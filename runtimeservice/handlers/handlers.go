// Package handlers knows the ways in which containers can be run: Berth's own runtime, and
// the programs of other OCI runtimes. A RuntimeClass picks one by its name.
//
// What a program can do is asked of itself, in the background, and again when its file has
// changed. A program that is missing or hangs is thereby an error of its own handler; nobody
// who does not use that handler waits for it.
package handlers

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Builtin is the name of Berth's own runtime.
const Builtin = "berth"

// Settings are what an operator says of a handler.
type Settings struct {
	// Path is the program; empty for Berth's own runtime. Args come before its command.
	Path string
	Args []string
	// Annotations are names of annotations that are passed on; a last * stands for
	// anything.
	Annotations []string
	// SeccompProfile is the file that stands for the default profile.
	SeccompProfile               string
	PrivilegedWithoutHostDevices bool
	// CgroupWritable lets containers write to their cgroup, on cgroup v2.
	CgroupWritable bool
	// MinMemory is the least memory limit in bytes, of containers that have one.
	MinMemory      int64
	ReadonlyRootfs bool
	// NetworkConfDirs are where the network of the pods is configured; empty is where all
	// others' is.
	NetworkConfDirs []string
}

// Features are what a runtime can do.
type Features struct {
	// Version is the runtime's own, as it calls it.
	Version string
	// OCIVersion is the version of the runtime specification to be written.
	OCIVersion              string
	RecursiveReadOnlyMounts bool
	UserNamespaces          bool
	// ExecCgroup says that exec takes --cgroup.
	ExecCgroup bool
}

// Handler is one way to run containers.
type Handler struct {
	Name string
	Settings
	Features
	// Err is why the handler cannot be used; the features are then empty.
	Err error
}

// External tells whether the handler is a program of its own.
func (h *Handler) External() bool { return h.Path != "" }

// Options are what a Set begins with.
type Options struct {
	// Default is the handler that the empty name stands for.
	Default string
	// Settings are those of the handlers by name. Builtin is always there.
	Settings map[string]Settings
	// Builtin are the features of Berth's own runtime. No handler has more of those that
	// the node, and Berth itself, have a part in.
	Builtin Features
	// Logger may be nil.
	Logger *slog.Logger
}

// Set is the handlers of a node. Its methods may be called at any time and from anywhere.
type Set struct {
	builtin Features
	log     *slog.Logger

	mu sync.Mutex
	// below: guarded by mu
	byDefault string
	settings  map[string]Settings
	programs  map[string]*program // by path and arguments
}

// New makes a Set. It looks at nothing; Run does.
func New(opts Options) *Set {
	s := &Set{builtin: opts.Builtin, log: opts.Logger, programs: map[string]*program{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.set(opts.Default, opts.Settings)
	return s
}

// Reload replaces the settings.
func (s *Set) Reload(byDefault string, settings map[string]Settings) {
	s.set(byDefault, settings)
	for _, p := range s.allPrograms() {
		p.look(false)
	}
}

// LookAgain has all programs looked at again, changed or not.
func (s *Set) LookAgain() {
	for _, p := range s.allPrograms() {
		p.look(true)
	}
}

func (s *Set) set(byDefault string, settings map[string]Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byDefault, s.settings = byDefault, maps.Clone(settings)
	if s.byDefault == "" {
		s.byDefault = Builtin
	}
	if s.settings == nil {
		s.settings = map[string]Settings{}
	}
	if _, ok := s.settings[Builtin]; !ok {
		s.settings[Builtin] = Settings{}
	}
	programs := map[string]*program{}
	for name, settings := range s.settings {
		if settings.Path == "" {
			continue
		}
		key := strings.Join(append([]string{settings.Path}, settings.Args...), "\x00")
		if p := s.programs[key]; p != nil {
			programs[key] = p
		} else if programs[key] == nil {
			programs[key] = newProgram(settings.Path, settings.Args, s.log.With("handler", name))
		}
	}
	s.programs = programs
}

func (s *Set) allPrograms() []*program {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.programs))
}

// lookEvery is how often programs are looked at without being asked for.
const lookEvery = time.Minute

// Run looks at the programs until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		for _, p := range s.allPrograms() {
			p.look(false)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Resolve returns the name of the handler that a pod asks for, which is empty for the
// default. An unknown one is ErrInvalidArgument. It waits for nothing.
func (s *Set) Resolve(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		return s.byDefault, nil
	}
	if _, ok := s.settings[name]; !ok {
		return "", fmt.Errorf("no handler %q is configured; there are %s, and \"\" for %s: %w",
			name, quoted(slices.Sorted(maps.Keys(s.settings))), s.byDefault, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

func quoted(names []string) string {
	for i, name := range names {
		names[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(names, ", ")
}

// Find returns a handler that can be used, as it is now: it waits, within bounds, for a look
// at the handler's own program and for no other. The error is ErrFailedPrecondition for a
// handler that is not configured any more, or whose program cannot be used.
func (s *Set) Find(ctx context.Context, name string) (Handler, error) {
	h, p, ok := s.lookup(name)
	if !ok {
		return h, fmt.Errorf("handler %q is not configured any more: %w", name, errdefs.ErrFailedPrecondition)
	}
	if p == nil {
		h.Features = s.builtin
		return h, nil
	}
	p.look(false)
	features, err := p.await(ctx)
	if err != nil {
		return h, fmt.Errorf("handler %q: %w: %w", name, err, errdefs.ErrFailedPrecondition)
	}
	h.Features = s.within(features)
	return h, nil
}

// within takes from a program's features what Berth cannot prepare for it on this node.
func (s *Set) within(f Features) Features {
	f.UserNamespaces = f.UserNamespaces && s.builtin.UserNamespaces
	f.RecursiveReadOnlyMounts = f.RecursiveReadOnlyMounts && s.builtin.RecursiveReadOnlyMounts
	return f
}

func (s *Set) lookup(name string) (Handler, *program, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	settings, ok := s.settings[name]
	if !ok {
		return Handler{Name: name}, nil, false
	}
	key := strings.Join(append([]string{settings.Path}, settings.Args...), "\x00")
	return Handler{Name: name, Settings: settings}, s.programs[key], true
}

// List returns all handlers as they were last seen, the default one first under the empty
// name, then all by name. It waits for nothing, and has the programs looked at again.
func (s *Set) List() []Handler {
	s.mu.Lock()
	names, byDefault := slices.Sorted(maps.Keys(s.settings)), s.byDefault
	s.mu.Unlock()
	all := make([]Handler, 0, len(names)+1)
	for _, name := range append([]string{byDefault}, names...) {
		h, p, ok := s.lookup(name)
		if !ok {
			continue // reloaded meanwhile
		}
		if p == nil {
			h.Features = s.builtin
		} else {
			p.look(false)
			h.Features, h.Err = p.last()
			h.Features = s.within(h.Features)
		}
		if len(all) == 0 {
			h.Name = ""
		}
		all = append(all, h)
	}
	return all
}
