// Package nritest is an NRI plugin for tests: a real one, made with the library's own
// stub, that connects to a socket, remembers what it is told and answers as its test
// wants.
package nritest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/stub"
)

// Event is something that the plugin was told.
type Event struct {
	Name      string
	Pod       *api.PodSandbox
	Container *api.Container
}

// Plugin answers with the functions that are set. They are set before Connect.
type Plugin struct {
	Name, Index string
	Policy      *api.FailurePolicy
	// Config is the configuration that the runtime gave the plugin.
	Config string

	// On is called for each event first; its error is the plugin's.
	On func(ctx context.Context, e Event) error

	Synced    func(pods []*api.PodSandbox, containers []*api.Container) []*api.ContainerUpdate
	Create    func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate)
	Update    func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
	Stopped   func(*api.Container) []*api.ContainerUpdate
	Validator func(*api.ValidateContainerAdjustmentRequest) error

	mu     sync.Mutex
	events []Event
	stub   stub.Stub
	closed chan struct{}
	ready  chan struct{}
}

// The interfaces by which the stub finds out what to subscribe to.
var (
	_ stub.ConfigureInterface                   = (*Plugin)(nil)
	_ stub.SynchronizeInterface                 = (*Plugin)(nil)
	_ stub.RunPodInterface                      = (*Plugin)(nil)
	_ stub.UpdatePodInterface                   = (*Plugin)(nil)
	_ stub.PostUpdatePodInterface               = (*Plugin)(nil)
	_ stub.StopPodInterface                     = (*Plugin)(nil)
	_ stub.RemovePodInterface                   = (*Plugin)(nil)
	_ stub.CreateContainerInterface             = (*Plugin)(nil)
	_ stub.PostCreateContainerInterface         = (*Plugin)(nil)
	_ stub.StartContainerInterface              = (*Plugin)(nil)
	_ stub.PostStartContainerInterface          = (*Plugin)(nil)
	_ stub.UpdateContainerInterface             = (*Plugin)(nil)
	_ stub.PostUpdateContainerInterface         = (*Plugin)(nil)
	_ stub.StopContainerInterface               = (*Plugin)(nil)
	_ stub.RemoveContainerInterface             = (*Plugin)(nil)
	_ stub.ValidateContainerAdjustmentInterface = (*Plugin)(nil)
)

// Connect connects to the socket and returns when the plugin has been synchronised.
func (p *Plugin) Connect(ctx context.Context, socket string) error {
	if p.Index == "" {
		p.Index = "10"
	}
	return p.start(ctx, stub.WithPluginName(p.Name), stub.WithPluginIdx(p.Index), stub.WithSocketPath(socket))
}

// Launched is Connect for a program that the runtime has launched as a plugin.
func (p *Plugin) Launched(ctx context.Context) error { return p.start(ctx) }

func (p *Plugin) start(ctx context.Context, options ...stub.Option) error {
	p.closed, p.ready = make(chan struct{}), make(chan struct{}, 1)
	options = append(options, stub.WithOnClose(func() { close(p.closed) }), stub.WithLogger(silent{}))
	if p.Policy != nil {
		options = append(options, stub.WithFailurePolicy(p.Policy))
	}
	s, err := stub.New(p, options...)
	if err != nil {
		return err
	}
	p.stub = s
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("start NRI plugin %s: %w", p.Name, err)
	}
	select {
	case <-p.ready:
		return nil
	case <-p.closed:
		return fmt.Errorf("start NRI plugin %s: the runtime closed the connection", p.Name)
	case <-ctx.Done():
		return fmt.Errorf("start NRI plugin %s: wait to be synchronised: %w", p.Name, ctx.Err())
	}
}

// Close ends the connection.
func (p *Plugin) Close() {
	if p.stub != nil {
		p.stub.Stop()
	}
}

// Closed is closed when the connection has ended.
func (p *Plugin) Closed() <-chan struct{} { return p.closed }

// Ask asks for updates without an event and returns those that failed.
func (p *Plugin) Ask(updates ...*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	return p.stub.UpdateContainers(updates)
}

// Events are those so far.
func (p *Plugin) Events() []Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// Names are the names of the events that concern a pod or a container, or of all for "".
func (p *Plugin) Names(id string) []string {
	var names []string
	for _, e := range p.Events() {
		if id == "" || e.Pod.GetId() == id || e.Container.GetId() == id {
			names = append(names, e.Name)
		}
	}
	return names
}

// Last is the last event of that name; nil if there was none.
func (p *Plugin) Last(name string) *Event {
	for _, e := range slices.Backward(p.Events()) {
		if e.Name == name {
			return &e
		}
	}
	return nil
}

// Await waits for an event of that name.
func (p *Plugin) Await(ctx context.Context, name string) (*Event, error) {
	for {
		if e := p.Last(name); e != nil {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", name, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *Plugin) told(ctx context.Context, name string, pod *api.PodSandbox, c *api.Container) error {
	e := Event{Name: name, Pod: pod, Container: c}
	p.mu.Lock()
	p.events = append(p.events, e)
	p.mu.Unlock()
	if p.On == nil {
		return nil
	}
	return p.On(ctx, e)
}

// silent is the stub's log: what goes wrong is the test's to see.
type silent struct{}

var _ nrilog.Logger = silent{}

func (silent) Debugf(context.Context, string, ...any) {}
func (silent) Infof(context.Context, string, ...any)  {}
func (silent) Warnf(context.Context, string, ...any)  {}
func (silent) Errorf(context.Context, string, ...any) {}
