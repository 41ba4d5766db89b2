// Package cni attaches pods to the node's network through CNI plugins.
//
// Before an ADD a debt is written, which has all that its DEL will need; it is removed when a
// DEL has succeeded. So whatever ends at whatever instant — a plugin, this program, the node —
// addresses and interfaces are given back, late at worst: Networks.Run pays what is left.
package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"github.com/berth-cri/berth/operation"
)

// Networks is the node's CNI network and what pods owe it.
//
//	             Attach                Detach, Release
//	no debt ──────────────> attached ──────────────────> released ──> no debt
//	   ^      debt saved,                debt marked         │ DEL
//	   │      then ADD                                       │ failed: again, by Run
//	   └───────────────────── DEL succeeded ─────────────────┘
//
// From a failed DEL on, the network namespace is held for the next.
//
// Operations on one pod take turns; those of different pods do not wait for each other.
type Networks struct {
	confDirs, binDirs []string
	timeout           time.Duration
	logger            *slog.Logger
	operations        *operation.Registry
	plugins           *libcni.CNIConfig
	ledger            *ledger
	holds             holds
	registry          registry
	podCIDRs          podCIDRs
	pods              keyedLock
	// nudge wakes the payer of debts; hurry also has it forget how long it meant to wait.
	nudge, hurry chan struct{}

	beginMu sync.Mutex // guards begun
	begun   bool

	reloading sync.Mutex // one reload at a time

	mu     sync.Mutex // guards what follows
	loaded *network   // in force; nil if none
	// loadErr is why the newest configuration is not in force.
	loadErr error
	// missing and statusErr are what is wrong with the network in force.
	missing   []string
	statusErr error
}

// New makes a Networks and loads the configuration. Nothing is run, and nothing written, before
// the first call of another method.
func New(opts Options) *Networks {
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	n := &Networks{
		confDirs:   opts.ConfDirs,
		binDirs:    opts.BinDirs,
		timeout:    opts.Timeout,
		logger:     opts.Logger,
		operations: opts.Operations,
		plugins:    libcni.NewCNIConfigWithCacheDir(opts.BinDirs, filepath.Join(opts.StateDir, "cache"), &pluginExec{}),
		ledger:     &ledger{dir: filepath.Join(opts.StateDir, "debts")},
		holds:      holds{dir: filepath.Join(opts.StateDir, "netns")},
		registry:   newRegistry(opts),
		podCIDRs:   podCIDRs{file: opts.Template},
		nudge:      make(chan struct{}, 1),
		hurry:      make(chan struct{}, 1),
	}
	n.reload()
	return n
}

// begin takes up what an earlier run left. Every operation begins with it; once it has
// succeeded it does nothing.
func (n *Networks) begin() error {
	n.beginMu.Lock()
	defer n.beginMu.Unlock()
	if n.begun {
		return nil
	}
	if err := n.registry.join(); err != nil {
		return err
	}
	debts, err := n.ledger.load()
	if err != nil {
		return err
	}
	if len(debts) > 0 {
		n.endLeftoverPlugins(debts)
	}
	n.begun = true
	return nil
}

// Attach adds the pod to the network that is in force and returns its addresses. When it fails
// the pod has nothing of the network, or what it has is a debt that Run pays. A pod that is
// attached already, or half, is detached first.
//
// Errors: ErrInvalidArgument for the pod's own data, ErrUnavailable when there is no usable
// network (as Status tells), ErrFailedPrecondition when the network cannot serve pods as it is
// configured, context.DeadlineExceeded when a plugin hangs; they name the plugin and the step.
func (n *Networks) Attach(ctx context.Context, pod Pod) (*Attachment, error) {
	rt, err := runtimeConf(pod)
	if err != nil {
		return nil, err
	}
	if err := n.begin(); err != nil {
		return nil, err
	}
	net, err := n.networkFor(pod)
	if err != nil {
		return nil, fmt.Errorf("attach pod %q: %w", pod.ID, err)
	}
	unlock, err := n.pods.lock(ctx, pod.ID)
	if err != nil {
		return nil, fmt.Errorf("attach pod %q: wait for its earlier operation: %w", pod.ID, err)
	}
	defer unlock()
	if err := n.pay(ctx, pod.ID, false); err != nil {
		return nil, fmt.Errorf("attach pod %q: detach it first: %w", pod.ID, err)
	}
	leave, err := n.registry.enter(ctx, net.list.Name)
	if err != nil {
		return nil, fmt.Errorf("attach pod %q: %w", pod.ID, err)
	}
	defer leave()
	n.warnUnserved(pod, net, rt)
	attached, err := n.attach(ctx, net, rt)
	if err != nil {
		return nil, fmt.Errorf("attach pod %q to network %q: %w", pod.ID, net.list.Name, err)
	}
	return attached, nil
}

// attach is Attach under the pod's lock, without an earlier debt.
func (n *Networks) attach(ctx context.Context, net *network, rt *libcni.RuntimeConf) (*Attachment, error) {
	d := &debt{
		Version:        debtVersion,
		PodID:          rt.ContainerID,
		Network:        net.list.Name,
		IfName:         rt.IfName,
		NetNS:          rt.NetNS,
		Config:         net.list.Bytes,
		Args:           rt.Args,
		CapabilityArgs: rt.CapabilityArgs,
		Skipped:        idlePlugins(net.list, rt.CapabilityArgs),
		Created:        time.Now(),
	}
	sync, err := n.ledger.add(d)
	if err != nil {
		return nil, err
	}
	// The disk works while the plugins do.
	synced := make(chan error, 1)
	go func() { synced <- sync() }()
	attached, err := n.add(ctx, net.list, d)
	if syncErr := <-synced; err == nil && syncErr != nil {
		err = fmt.Errorf("write debt: %w: %w", syncErr, errdefs.ErrUnavailable)
	}
	if err == nil {
		return attached, nil
	}
	// A failed ADD can hold an address. The caller may be gone: the undoing has its own time.
	if undo := n.pay(context.WithoutCancel(ctx), d.PodID, false); undo != nil {
		n.logger.Warn("network of a pod that could not be attached is not released yet", "pod", d.PodID, "network", d.Network, "error", undo)
	}
	return nil, err
}

// networkFor returns the network in force, or that of the pod's own directories, if its
// plugins are there.
func (n *Networks) networkFor(pod Pod) (*network, error) {
	if len(pod.ConfDirs) == 0 {
		return n.usableNetwork()
	}
	net, err := loadNetwork(pod.ConfDirs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	if missing := missingOf(net.types, n.binDirs); len(missing) > 0 {
		return nil, fmt.Errorf("network %q: %w", net.list.Name, missingPlugins(missing, n.binDirs))
	}
	return net, nil
}

// usableNetwork returns the network in force if its plugins are there.
func (n *Networks) usableNetwork() (*network, error) {
	net := n.network()
	if net == nil {
		n.reload()
		if net = n.network(); net == nil {
			return nil, fmt.Errorf("%s: %w", n.Status().Message, errdefs.ErrUnavailable)
		}
	}
	if missing := missingOf(net.types, n.binDirs); len(missing) > 0 {
		return nil, fmt.Errorf("network %q: %w", net.list.Name, missingPlugins(missing, n.binDirs))
	}
	return net, nil
}

func (n *Networks) network() *network {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.loaded
}

// warnUnserved tells of what the pod asks for and no plugin of the network can do.
func (n *Networks) warnUnserved(pod Pod, net *network, rt *libcni.RuntimeConf) {
	for _, capability := range []string{capPortMappings, capBandwidth} {
		if _, asked := rt.CapabilityArgs[capability]; asked && !net.hasCapability(capability) {
			n.logger.Warn("no plugin of the network has the capability that a pod needs", "capability", capability,
				"pod", pod.ID, "name", pod.Name, "namespace", pod.Namespace, "network", net.list.Name)
		}
	}
}

// Detach takes the pod from its network: DEL with the configuration of its ADD, whatever has
// become of that. It is idempotent, and nil for a pod that was never attached. When it fails
// the debt stays and Run retries it; the error is then only a report.
func (n *Networks) Detach(ctx context.Context, podID string) error {
	if err := n.begin(); err != nil {
		return err
	}
	unlock, err := n.pods.lock(ctx, podID)
	if err != nil {
		return fmt.Errorf("detach pod %q: wait for its earlier operation: %w", podID, err)
	}
	defer unlock()
	if err := n.pay(ctx, podID, false); err != nil {
		return fmt.Errorf("detach pod %q: %w", podID, err)
	}
	return nil
}

// Release says that the pod is gone for good. What is left of its network is paid by Run; the
// caller waits for no plugin.
func (n *Networks) Release(_ context.Context, podID string) {
	if err := n.begin(); err != nil {
		n.logger.Error("release the network of a pod", "pod", podID, "error", err)
		return
	}
	if err := n.ledger.release(podID, ""); err != nil {
		n.logger.Warn("release the network of a pod", "pod", podID, "error", err)
	}
	tell(n.nudge)
}

// Pods returns the IDs of pods that are attached or owe a DEL, in no order. The owner of the
// pods releases those at start that it does not know.
func (n *Networks) Pods() ([]string, error) {
	if err := n.begin(); err != nil {
		return nil, err
	}
	debts := n.ledger.all()
	ids := make([]string, len(debts))
	for i, d := range debts {
		ids[i] = d.PodID
	}
	return ids, nil
}

// pay runs the DEL of a pod's debt and removes it. It is nil without a debt. A failed one is
// marked for Run, and its namespace is held until then. The caller has the pod's lock.
func (n *Networks) pay(ctx context.Context, podID string, thorough bool) error {
	d := n.ledger.get(podID)
	if d == nil {
		return nil
	}
	if err := n.del(ctx, d, thorough); err != nil {
		defer tell(n.nudge)
		held, holdErr := n.holds.hold(podID, d.NetNS)
		return errors.Join(fmt.Errorf("network %q: %w", d.Network, err), holdErr, n.ledger.release(podID, held))
	}
	if err := n.holds.drop(podID); err != nil {
		return err
	}
	return n.ledger.remove(d)
}
