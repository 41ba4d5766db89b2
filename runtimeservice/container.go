package runtimeservice

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/record"
)

// container is a container of a sandbox.
//
//	          CreateContainer         StartContainer          its process ends
//	creating ─────────────────▶ created ───────────▶ running ─────────────────▶ exited
//	    │ fails                    │    │ fails         │                         │ ▲
//	    ▼                          │    └───────────────┼─────────────────────────┼─┘
//	  (undone)                     └─▶ removing ◀───────┴─────────────────────────┘
//	                                      │          RemoveContainer
//	                                      ▼
//	                                   (gone)
//
// Each state is on record before it is shown. Whether a running container still
// runs is the monitor's to say; its exits arrive at exitedWith.
type container struct {
	id      string
	key     containerKey
	sandbox *sandbox
	store   *record.Store[record.Container]
	// config is what the container was asked to be, without what only its
	// specification needs (arguments, environment, devices); not to be changed.
	config *runtimeapi.ContainerConfig
	mounts []*runtimeapi.Mount
	user   *runtimeapi.ContainerUser

	// rec is what the record says. The value behind it is never changed.
	rec atomic.Pointer[record.Container]
	// resources are the limits in force.
	resources atomic.Pointer[runtimeapi.LinuxContainerResources]

	// op is held by one who starts, updates or removes the container.
	op *lock
	// limits is held by one who reads the specification to start the container, or who
	// changes the limits in it. It is never held while a plugin is waited for.
	limits *lock
	// spec is there from creation to start; later it is read from disk. limits guards it.
	spec *specs.Spec

	// plugins is held by one who tells plugins of the container, and orders what they
	// are told. It is taken after op and before limits.
	plugins *lock
	// toldStopped changes in a turn, so that a plugin which joins is told of an end that
	// those before it have not heard of.
	toldStopped atomic.Bool
	toldRemoved bool // guarded by plugins

	// mu orders the writing of the record and guards the fields below.
	mu sync.Mutex
	// unsaved is true when the end of the process could not be written.
	unsaved bool
	stop    *stopping
	early   earlyClients
	// exited is closed when rec says exited.
	exited chan struct{}

	// releasing is held by one who gives back what an ended process leaves.
	releasing *lock
	released  bool
}

// containerKey is what makes a container unique for a kubelet.
type containerKey struct {
	sandboxID, name string
	attempt         uint32
}

func newContainer(rec *record.Container, sb *sandbox, store *record.Store[record.Container]) (*container, error) {
	config := &runtimeapi.ContainerConfig{}
	if err := proto.Unmarshal(rec.Config, config); err != nil {
		return nil, fmt.Errorf("read configuration of container %s: %w", rec.ID, err)
	}
	c := &container{
		id:        rec.ID,
		key:       containerKey{sb.id, config.GetMetadata().GetName(), config.GetMetadata().GetAttempt()},
		sandbox:   sb,
		store:     store,
		config:    config,
		op:        newLock("container " + rec.ID),
		limits:    newLock("the limits of container " + rec.ID),
		plugins:   newLock("the plugins of container " + rec.ID),
		releasing: newLock("the release of container " + rec.ID),
		exited:    make(chan struct{}),
	}
	if err := c.decode(rec, config); err != nil {
		return nil, err
	}
	config.Command, config.Args, config.Envs, config.Devices, config.Linux = nil, nil, nil, nil, nil
	c.rec.Store(rec)
	if rec.State == record.Exited {
		close(c.exited)
		c.toldStopped.Store(true) // plugins that connect are not told of it
	}
	return c, nil
}

// decode reads the messages of a record beside the configuration.
func (c *container) decode(rec *record.Container, config *runtimeapi.ContainerConfig) error {
	resources := config.GetLinux().GetResources()
	if rec.Resources != nil {
		resources = &runtimeapi.LinuxContainerResources{}
		if err := proto.Unmarshal(rec.Resources, resources); err != nil {
			return fmt.Errorf("read resources of container %s: %w", rec.ID, err)
		}
	}
	c.resources.Store(resources)
	for _, raw := range rec.Mounts {
		mount := &runtimeapi.Mount{}
		if err := proto.Unmarshal(raw, mount); err != nil {
			return fmt.Errorf("read mounts of container %s: %w", rec.ID, err)
		}
		c.mounts = append(c.mounts, mount)
	}
	if rec.User != nil {
		c.user = &runtimeapi.ContainerUser{}
		if err := proto.Unmarshal(rec.User, c.user); err != nil {
			return fmt.Errorf("read user of container %s: %w", rec.ID, err)
		}
	}
	return nil
}

// update changes the record, first on disk and then in memory. A change that
// could not be written is not made.
func (c *container) update(change func(*record.Container)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := *c.rec.Load()
	change(&next)
	if err := c.store.Put(c.id, &next); err != nil {
		return err
	}
	c.unsaved = false
	c.show(&next)
	return nil
}

// show makes next what the record says; mu is held.
func (c *container) show(next *record.Container) {
	c.rec.Store(next)
	if next.State != record.Created {
		c.sendOnEarly()
	}
}

func (c *container) state() record.State { return c.rec.Load().State }

// criState is the state as CRI has it.
func (c *container) criState() runtimeapi.ContainerState {
	switch c.state() {
	case record.Created:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case record.Running:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case record.Exited, record.Removing:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	default:
		return runtimeapi.ContainerState_CONTAINER_UNKNOWN
	}
}

// requireRunning is the error of what only a running container can do:
// ErrFailedPrecondition.
func (c *container) requireRunning() error {
	if state := c.state(); state != record.Running {
		return fmt.Errorf("container %s is not running (%s): %w", c.id, state, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// orEnded is the error of a call for a container that ran a moment ago: the
// monitor knows of its end, as ErrNotFound, before it is recorded here.
func (c *container) orEnded(err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("container %s has just ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return err
}

func (c *container) stopSignal() syscall.Signal {
	if n := c.rec.Load().StopSignal; n != 0 {
		return syscall.Signal(n)
	}
	return syscall.SIGTERM
}

// sortContainers puts the oldest first.
func sortContainers(all []*container) {
	slices.SortFunc(all, func(a, b *container) int {
		return cmp.Or(cmp.Compare(a.rec.Load().CreatedAt, b.rec.Load().CreatedAt), cmp.Compare(a.id, b.id))
	})
}
