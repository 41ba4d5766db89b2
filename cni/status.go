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
// anything is other than before.
func (n *Networks) reload() (changed bool) {
	net, err := loadNetwork(n.confDirs)
	missing := []string(nil)
	n.mu.Lock()
	defer n.mu.Unlock()
	before, beforeErr, beforeMissing := n.loaded, n.loadErr, n.missing
	n.loadErr = err
	switch {
	case err == nil && !net.equal(n.loaded):
		n.loaded, n.statusErr = net, nil
	case errors.Is(err, errNoConfig):
		n.loaded, n.statusErr = nil, nil
	}
	if n.loaded != nil {
		missing = missingOf(n.loaded.types, n.binDirs)
	}
	n.missing = missing
	n.logReload(before, beforeErr)
	return before != n.loaded || text(beforeErr) != text(err) || !slices.Equal(beforeMissing, missing)
}

func (n *Networks) logReload(before *network, beforeErr error) {
	if n.loaded != before && n.loaded != nil {
		n.logger.Info("network configuration loaded", "network", n.loaded.list.Name, "file", n.loaded.file)
	}
	if n.loadErr != nil && text(n.loadErr) != text(beforeErr) {
		n.logger.Warn("network configuration not loaded", "error", n.loadErr)
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
