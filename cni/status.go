package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

// Status says whether pods can be attached. It answers from memory.
func (n *Networks) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.loaded == nil && errors.Is(n.loadErr, errNoConfig):
		return Status{Reason: ReasonNoConfig, Message: n.loadErr.Error()}
	case n.loaded == nil:
		return Status{Reason: ReasonInvalidConfig, Message: n.loadErr.Error()}
	case len(n.missing) > 0:
		return Status{Reason: ReasonPluginMissing, Message: fmt.Sprintf("network %q of %s needs %s, missing in %s",
			n.loaded.list.Name, n.loaded.file, strings.Join(n.missing, ", "), strings.Join(n.binDirs, ", "))}
	case n.statusErr != nil:
		return Status{Reason: ReasonPluginNotReady, Message: fmt.Sprintf("network %q of %s is not ready: %v", n.loaded.list.Name, n.loaded.file, n.statusErr)}
	case n.loadErr != nil:
		return Status{Ready: true, Message: fmt.Sprintf("network %q stays as it was: %v", n.loaded.list.Name, n.loadErr)}
	}
	return Status{Ready: true}
}

// reload takes the configuration that the directories have now. A broken one leaves the network
// in force as it is; when there is none any more, the node has no network. It returns whether
// anything is other than before. File systems are not waited for under the lock, which Status
// needs.
func (n *Networks) reload() (changed bool) {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	net, err := loadNetwork(n.confDirs)
	before := n.network()
	switch {
	case err == nil && net.equal(before), err != nil && !errors.Is(err, errNoConfig):
		net = before
	}
	var missing []string
	if net != nil {
		missing = missingOf(net.types, n.binDirs)
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	changed = net != before || text(err) != text(n.loadErr) || !slices.Equal(missing, n.missing)
	if net != before {
		n.statusErr = nil
	}
	n.logReload(net, err)
	n.loaded, n.loadErr, n.missing = net, err, missing
	return changed
}

func (n *Networks) logReload(net *network, err error) {
	if net != nil && net != n.loaded {
		n.logger.Info("network configuration loaded", "network", net.list.Name, "file", net.file)
	}
	if err != nil && text(err) != text(n.loadErr) {
		n.logger.Warn("network configuration not loaded", "error", err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (net *network) equal(other *network) bool {
	return other != nil && net.file == other.file && bytes.Equal(net.list.Bytes, other.list.Bytes)
}

// askPlugins runs the STATUS of the network's plugins, which CNI has since 1.1.
func (n *Networks) askPlugins(ctx context.Context) {
	net := n.network()
	if net == nil || !net.since11() || len(missingOf(net.types, n.binDirs)) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	err := stepError(n.plugins.GetStatusNetworkList(ctx, net.list))
	if errors.Is(err, context.Canceled) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.loaded != net {
		return
	}
	if text(err) != text(n.statusErr) {
		if err != nil {
			n.logger.Warn("network is not ready", "network", net.list.Name, "error", err)
		} else {
			n.logger.Info("network is ready again", "network", net.list.Name)
		}
	}
	n.statusErr = err
}

func (net *network) since11() bool {
	since, err := version.GreaterThanOrEqualTo(net.list.CNIVersion, "1.1.0")
	return err == nil && since
}
