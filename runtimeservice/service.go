// Package runtimeservice decides what happens to pods and containers: it owns
// the life cycles of sandboxes and containers, their records on disk, their
// events and their statistics. It speaks the messages of the Container Runtime
// Interface, without its transport: package cri hands the calls in.
//
// Where to look: sandbox.go and container.go draw the two state machines; each
// call that changes something has a file of its own, from run_pod_sandbox.go to
// remove_container.go; recover.go takes everything up at start, leftovers.go
// removes what should not be there. The parts that know nothing of life cycles are
// in the folders below.
//
// Errors carry the kinds of package errdefs (ErrNotFound, ErrInvalidArgument,
// ErrAlreadyExists, ErrFailedPrecondition, ErrUnavailable, ErrNotImplemented),
// or context.DeadlineExceeded.
package runtimeservice

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/events"
	"github.com/berth-cri/berth/runtimeservice/handlers"
	"github.com/berth-cri/berth/runtimeservice/join"
	"github.com/berth-cri/berth/runtimeservice/podfiles"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/selinux"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// The longest that each operation may take, whoever waits for it. A kubelet's
// own limits are two minutes (four for RunPodSandbox).
const (
	runSandboxTimeout      = 4 * time.Minute
	stopSandboxTimeout     = 2 * time.Minute
	removeSandboxTimeout   = 2 * time.Minute
	createContainerTimeout = 2 * time.Minute
	startContainerTimeout  = 2 * time.Minute
	removeContainerTimeout = 2 * time.Minute
	updateContainerTimeout = time.Minute
	// undoTimeout bounds each single step of undoing; undoNetworkTimeout is for
	// that step, which runs programs of others.
	undoTimeout        = 20 * time.Second
	undoNetworkTimeout = 90 * time.Second
)

// These are for pods whose configuration names no cgroup parent.
const (
	defaultCgroupParent = "/berth"
	defaultCgroupSlice  = "/berth.slice"
)

// Options is what a Service works with.
type Options struct {
	// Root survives a reboot and gets the records, State does not and gets what
	// dies with the kernel: pins, mount points.
	Root, State string
	// WritableDir is the directory of the containers' writable layers, whose file system
	// statistics name; Root by default.
	WritableDir string

	Images          Images
	RootFilesystems RootFilesystems
	Volumes         Volumes
	// WritableLayers may be nil in tests.
	WritableLayers WritableLayers
	Network        Network
	// Plugins may be nil.
	Plugins Plugins
	// Processes is the monitor's client; its OnExit must be Service.HandleExit.
	Processes Processes

	// Devices may be nil where CDI is turned off.
	Devices Devices
	// AppArmor and Classes may be nil in tests.
	AppArmor AppArmor
	// Labels may be nil: no container has an SELinux label then.
	Labels  Labels
	Classes Classes
	// Handlers are the ways to run containers; nil is Berth's own runtime alone.
	Handlers Handlers

	// Host is what the machine can do; Defaults are for what requests leave open.
	Host     *spec.Host
	Defaults spec.Defaults
	// CgroupParent is for pods that name none; /berth or
	// /berth.slice if empty.
	CgroupParent string
	// SystemdCgroup says that systemd makes the cgroups.
	SystemdCgroup bool

	// Info adds keys to the verbose answer of Status; every value is JSON. May
	// be nil.
	Info func() map[string]string
	// Operations lists what is done in the background; may be nil.
	Operations *operation.Registry
	// ObserveStart is told of each stage of a pod's start, and how long it took;
	// may be nil.
	ObserveStart func(stage string, took time.Duration)
	// Logger may be nil.
	Logger *slog.Logger

	// What follows is for tests; empty means the kernel's.
	Namespaces Namespaces
	Mounter    podfiles.Mounter
	BuildSpec  func(context.Context, spec.Input) (*specs.Spec, *spec.Resolved, error)
	BootID     string
	// CgroupRoot is where the cgroup hierarchies are mounted.
	CgroupRoot string
	// ConnectTimeout is how long Start waits for the monitor.
	ConnectTimeout time.Duration
}

// Service is the runtime half of CRI. A caller makes it with New, calls Start
// once, which takes up what the last run left, and then serves calls and runs
// Run beside. Nothing has to be closed: the end of the program is an end like
// any other, pods go on.
//
// Calls that change something run to their end, or undo themselves, also when
// their caller goes away. They take turns at their own sandbox or container and
// wait for nothing else. Calls that only look (List, Status) read snapshots in
// memory and wait for nothing.
type Service struct {
	opts Options
	log  *slog.Logger

	sandboxes  *table[sandboxKey, *sandbox]
	containers *table[containerKey, *container]

	sandboxRecords   *record.Store[record.Sandbox]
	containerRecords *record.Store[record.Container]
	specs            *record.Store[specs.Spec]

	runs    join.Group[sandboxKey, string]
	creates join.Group[containerKey, string]
	starts  join.Group[string, struct{}]

	// userNamespaces says why pods cannot have user namespaces; nil if they can.
	// Set by Start.
	userNamespaces error

	events events.Hub
	*meter
	*sessions
	*checkpoints
	plugins *pluginEvents

	// background are the operations that nobody waits for.
	background underWay
	// leftovers is what Start finds, or an undo leaves, and Run removes.
	leftovers *leftovers
}

// New opens the records under Options.Root. It starts nothing.
func New(opts Options) (*Service, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	s := &Service{
		opts:       opts,
		log:        opts.Logger,
		sandboxes:  newTable[sandboxKey, *sandbox]("sandbox"),
		containers: newTable[containerKey, *container]("container"),
		leftovers:  newLeftovers(),
	}
	processes, err := s.openRecords()
	if err != nil {
		return nil, err
	}
	s.meter = newMeter(s)
	s.plugins = newPluginEvents(s)
	s.checkpoints = newCheckpoints(s)
	s.sessions = &sessions{
		sandboxes: s.sandboxes, containers: s.containers, monitor: opts.Processes, processes: processes, log: s.log,
	}
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	return s, nil
}

// complete fills in what was left open.
func (o *Options) complete() error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CgroupParent == "" {
		o.CgroupParent = defaultCgroupParent
		if o.SystemdCgroup {
			o.CgroupParent = defaultCgroupSlice
		}
	}
	if o.Handlers == nil {
		o.Handlers = handlers.New(handlers.Options{Builtin: BuiltinFeatures(), Logger: o.Logger})
	}
	if o.Labels == nil {
		o.Labels = selinux.Off()
	}
	if o.Namespaces == nil {
		o.Namespaces = kernelNamespaces{}
	}
	if o.Mounter == nil {
		o.Mounter = podfiles.Kernel{}
	}
	if o.BuildSpec == nil {
		o.BuildSpec = spec.Build
	}
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, connectTimeout)
	if o.BootID == "" {
		raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return fmt.Errorf("read boot ID: %w", err)
		}
		o.BootID = strings.TrimSpace(string(raw))
	}
	return nil
}

// openRecords opens the stores of records. The one it returns reads the specifications
// too, and of them only what an exec needs.
func (s *Service) openRecords() (*record.Store[processSpec], error) {
	var err error
	if s.sandboxRecords, err = record.Open[record.Sandbox](filepath.Join(s.opts.Root, "sandboxes"), s.log); err != nil {
		return nil, err
	}
	if s.containerRecords, err = record.Open[record.Container](filepath.Join(s.opts.Root, "containers"), s.log); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.opts.Root, "specs")
	if s.specs, err = record.Open[specs.Spec](dir, s.log); err != nil {
		return nil, err
	}
	return record.Open[processSpec](dir, s.log)
}

func (s *Service) makeDirs() error {
	for dir, mode := range map[string]os.FileMode{
		s.sandboxesDir(): 0o700,
		// On its way to the root file system a pod's root passes it, which is nobody
		// special on the node. Who looks for those of others has to guess their IDs,
		// and does not get further.
		s.containersDir():  0o711,
		s.checkpoints.root: 0o700,
	} {
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			return fmt.Errorf("make state directory: %w", err)
		}
	}
	return nil
}

// Run syncs records, removes what Start found to be left over, and writes again
// what could not be written, until ctx ends. Then it waits for operations that
// are under way, for a short time.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.sandboxRecords.Run(ctx) })
	group.Go(func() error { return s.containerRecords.Run(ctx) })
	group.Go(func() error { return s.specs.Run(ctx) })
	group.Go(func() error { s.removeLeftovers(ctx); return nil })
	group.Go(func() error { s.retryUnsaved(ctx); return nil })
	err := group.Wait()
	s.settle()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// settleTimeout is how long an ending Run waits for operations under way. They
// may be cut off: the next start completes or undoes them.
const settleTimeout = 2 * time.Second

func (s *Service) settle() {
	select {
	case <-s.background.ended():
	case <-time.After(settleTimeout):
		s.log.Info("operations are still under way; the next start takes them up")
	}
}

// StreamEvents calls listening, and hands every event that happens after its
// call began to send, in order, until ctx ends (nil), listening or send fails
// (its error) or the client is too slow (ErrResourceExhausted).
func (s *Service) StreamEvents(ctx context.Context, listening func() error, send func(*runtimeapi.ContainerEventResponse) error) error {
	return s.events.Stream(ctx, listening, send)
}

// detached runs fn to its end, at most for timeout, and returns its error. When
// ctx ends first its error is returned and fn goes on.
func (s *Service) detached(ctx context.Context, timeout time.Duration, fn func(context.Context) error) error {
	done := make(chan error, 1)
	release := operation.Hold(ctx)
	s.background.begin()
	go func() {
		defer s.background.end()
		defer release()
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v\n%s: %w", p, debug.Stack(), errdefs.ErrInternal)
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		done <- fn(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// inBackground is detached for what nobody waits for.
func (s *Service) inBackground(what string, fn func(context.Context) error) {
	s.background.begin()
	go func() {
		defer s.background.end()
		ctx, op := s.opts.Operations.Begin(context.Background(), "background: "+what, operation.Subject{}, operation.Options{})
		ctx, cancel := context.WithTimeout(ctx, removeSandboxTimeout)
		defer cancel()
		var err error
		defer func() { op.End(err) }()
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v: %w", p, errdefs.ErrInternal)
				s.log.Error(what, "panic", p, "stack", string(debug.Stack()))
			}
		}()
		if err = fn(ctx); err != nil {
			s.log.Error(what, "error", err)
		}
	}()
}

func (s *Service) sandboxesDir() string  { return filepath.Join(s.opts.State, "sandboxes") }
func (s *Service) containersDir() string { return filepath.Join(s.opts.State, "containers") }

// sandboxDir is where the pins and the files of a sandbox are.
func (s *Service) sandboxDir(id string) string { return filepath.Join(s.sandboxesDir(), id) }

// rootfsDir is where the root file system of a container is mounted.
func (s *Service) rootfsDir(id string) string {
	return filepath.Join(s.containersDir(), id, "rootfs")
}

// idLength is that of an ID in hexadecimal digits.
const idLength = 64

func newID() string {
	var raw [idLength / 2]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	return hex.EncodeToString(raw[:])
}

// isID tells whether a name of a file can be an ID of ours. What is not one is
// never unmounted or removed.
func isID(name string) bool {
	if len(name) != idLength {
		return false
	}
	_, err := hex.DecodeString(name)
	return err == nil && strings.ToLower(name) == name
}
