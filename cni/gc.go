package cni

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

const (
	gcInterval = 30 * time.Minute
	// gcRetry is the pause after a GC that found pods being added.
	gcRetry = 10 * time.Second
	// gcTimeout bounds a GC: pods wait for it.
	gcTimeout = 10 * time.Second
)

// collect has the plugins remove what belongs to no attachment of any instance on the host.
// The error is ErrUnavailable while pods are being added. It does nothing for a network that
// another runtime uses as well, or whose configuration is older than CNI 1.1 or declines.
func (n *Networks) collect(ctx context.Context) error {
	net := n.network()
	if net == nil || !net.since11() || net.list.DisableGC || len(missingOf(net.types, n.binDirs)) > 0 {
		return nil
	}
	name := net.list.Name
	if peer, err := n.registry.hasPeer(name); err != nil || peer {
		if peer {
			n.logger.Debug("network is not garbage collected: another runtime uses it", "network", name, "seen", n.registry.peerCache)
		}
		return err
	}
	unlock, err := n.registry.lock(name, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	debts, err := n.registry.attachments(name)
	if err != nil {
		return err
	}
	valid := make([]types.GCAttachment, 0, len(debts))
	for _, d := range debts {
		if !d.Released {
			valid = append(valid, types.GCAttachment{ContainerID: d.PodID, IfName: d.IfName})
		}
	}
	ctx, cancel := context.WithTimeout(ctx, min(gcTimeout, n.timeout))
	defer cancel()
	// Without a cache of its own libcni leaves DELs alone: debts are what decides on those.
	collector := libcni.NewCNIConfigWithCacheDir(n.binDirs, filepath.Join(n.registry.dir, "no-cache"), &pluginExec{})
	return collector.GCNetworkList(ctx, net.list, &libcni.GCArgs{ValidAttachments: valid})
}

// runGC collects at start and on a timer until ctx ends.
func (n *Networks) runGC(ctx context.Context) {
	for {
		wait := gcInterval
		err := n.collect(ctx)
		switch {
		case errdefs.IsUnavailable(err):
			wait = gcRetry
		case err != nil && !errors.Is(err, context.Canceled):
			n.logger.Warn("garbage collection of the network", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
