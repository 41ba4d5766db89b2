// Package nri connects plugins of the Node Resource Interface
// (github.com/containerd/nri): programs that are told what happens to pods and
// containers, and that may adjust the specification of a container before it is
// made and its limits while it runs.
//
// Plugins is the set of them: those that were installed in a directory and are
// launched at Start, and those that connect to a socket at any time. Its owner
// begins a Turn for each change of a pod or a container, hands the events to it
// and ends it when the change can be seen in what Runtime.State returns. A
// plugin that connects is synchronised between turns, so it has each pod and
// container either in its synchronisation or as an event.
//
// How long a plugin may take, and what becomes of one that fails or hangs, is the
// library's to say: an error that a plugin returns is the request's; one that does
// not answer in time or is gone is dropped and the request goes on without it,
// unless the plugin has asked for another policy.
//
// Adjust applies what plugins want to an OCI specification, AdjustResources to the
// limits in one. Container describes a specification to plugins.
package nri

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/prometheus/client_golang/prometheus"
)

// runtimeName is what plugins are told of the runtime.
const runtimeName = "berth"

// Runtime is what plugins may see and change without an event.
type Runtime interface {
	// State returns the pods there are, and the containers that were created or run, or
	// of whose end there is still to be an event.
	State(ctx context.Context) ([]*api.PodSandbox, []*api.Container, error)
	// Update changes the limits of a container.
	Update(ctx context.Context, update *api.ContainerUpdate) error
}

// Options is what Plugins work with.
type Options struct {
	// Socket is where plugins connect; empty for none. Where another process
	// serves it already, that one keeps it.
	Socket string
	// PluginDir holds programs that are launched at Start, named NN-name, and
	// ConfigDir their configurations, NN-name.conf or name.conf. PluginDir need
	// not exist.
	PluginDir, ConfigDir string
	// RegistrationTimeout is how long a plugin may take to register after it has
	// connected, RequestTimeout how long to answer a request.
	RegistrationTimeout, RequestTimeout time.Duration
	// Validator is the built-in plugin that refuses adjustments.
	Validator Validator
	// Version is the runtime's, for plugins.
	Version string
	// Registry gets the metrics; may be nil.
	Registry prometheus.Registerer
	// Logger may be nil.
	Logger *slog.Logger
}

// Validator is what the built-in validator refuses.
type Validator struct {
	Enabled                   bool
	RejectHooks               bool
	RejectRuntimeDefault      bool
	RejectUnconfined          bool
	RejectCustomSeccomp       bool
	RejectNamespaces          bool
	RejectSysctls             bool
	RequiredPlugins           []string
	TolerateMissingAnnotation string
}

// Plugins are the plugins of one runtime. A caller makes them with New, calls Start
// once the runtime's state is known and before it changes, and Stop at the end.
type Plugins struct {
	opts       Options
	log        *slog.Logger
	adaptation *adaptation.Adaptation
	runtime    Runtime
	claim      *os.File // holds the socket's lock

	// connected is how many plugins take part. It changes only while no Turn is
	// under way, except to fall when one is dropped.
	connected atomic.Int64
}

// New makes the set. It starts nothing.
func New(opts Options) *Plugins {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Plugins{opts: opts, log: opts.Logger}
}

// SetLogger makes the library, whose logger is one for the process, write to log.
func SetLogger(log *slog.Logger) { nrilog.Set(libraryLog{log}) }

// Start launches the plugins that are installed and lets others connect. A plugin
// that does not start is logged and left out. The error is that of a directory
// that cannot be used. A socket that another process serves is left to it.
func (p *Plugins) Start(runtime Runtime) error {
	p.runtime = runtime
	adaptation.SetPluginRegistrationTimeout(p.opts.RegistrationTimeout)
	adaptation.SetPluginRequestTimeout(p.opts.RequestTimeout)
	metrics, err := newMetrics(p.opts.Registry, &p.connected)
	if err != nil {
		return err
	}
	options := []adaptation.Option{
		adaptation.WithPluginPath(p.opts.PluginDir),
		adaptation.WithPluginConfigPath(p.opts.ConfigDir),
		adaptation.WithDefaultValidator(p.opts.Validator.config()),
		adaptation.WithMetrics(metrics),
	}
	if p.claimSocket() {
		options = append(options, adaptation.WithSocketPath(p.opts.Socket))
	} else {
		options = append(options, adaptation.WithDisabledExternalConnections())
	}
	if p.adaptation, err = adaptation.New(runtimeName, p.opts.Version, p.synchronize, p.update, options...); err != nil {
		return fmt.Errorf("set up NRI: %w", err)
	}
	if err := p.adaptation.Start(); err != nil {
		return fmt.Errorf("start NRI plugins: %w", err)
	}
	return nil
}

// Stop ends the plugins that were launched and closes the socket. The connections
// of others end with the process.
func (p *Plugins) Stop() {
	if p.adaptation != nil {
		p.adaptation.Stop()
	}
	if p.claim != nil {
		p.claim.Close()
	}
}

func (v Validator) config() *validator.DefaultValidatorConfig {
	return &validator.DefaultValidatorConfig{
		Enable:                                v.Enabled,
		RejectOCIHookAdjustment:               v.RejectHooks,
		RejectRuntimeDefaultSeccompAdjustment: v.RejectRuntimeDefault,
		RejectUnconfinedSeccompAdjustment:     v.RejectUnconfined,
		RejectCustomSeccompAdjustment:         v.RejectCustomSeccomp,
		RejectNamespaceAdjustment:             v.RejectNamespaces,
		RejectSysctlAdjustment:                v.RejectSysctls,
		RequiredPlugins:                       v.RequiredPlugins,
		TolerateMissingAnnotation:             v.TolerateMissingAnnotation,
	}
}
