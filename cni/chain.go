package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// add runs the chain of plugins that d stands for.
func (n *Networks) add(ctx context.Context, list *libcni.NetworkConfigList, d *debt) (*Attachment, error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	result, err := n.plugins.AddNetworkList(ctx, without(list, d.Skipped), d.runtimeConf(d.NetNS))
	if err != nil {
		return nil, stepError(err)
	}
	return attachment(list.Name, result)
}

// del undoes what add did, or began to do. As the specification says it goes through the chain
// backwards and stops at the first failure. A thorough one, for a pod that is gone, goes on: a
// plugin that cannot be run any more must not keep the others' addresses.
func (n *Networks) del(ctx context.Context, d *debt, thorough bool) error {
	list, err := n.listOf(d)
	if err != nil {
		return err
	}
	rt := d.runtimeConf(liveNetNS(d.NetNS))
	previous := n.cachedResult(list, rt)
	chain := without(list, d.Skipped).Plugins
	if !thorough {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.timeout)
		defer cancel()
	}
	var errs []error
	for _, plugin := range slices.Backward(chain) {
		if err := n.delOne(ctx, list, plugin, previous, rt); err != nil {
			errs = append(errs, err)
			if !thorough {
				break
			}
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	// Of no plugins a DEL is only the removal of the cached result.
	cached := *list
	cached.Plugins = nil
	return n.plugins.DelNetworkList(ctx, &cached, rt)
}

// cachedResult is the ADD's; nil if it was not reached, or is from before CNI 0.4, or damaged.
// The specification lets a DEL go without.
func (n *Networks) cachedResult(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) types.Result {
	if since, err := version.GreaterThanOrEqualTo(list.CNIVersion, "0.4.0"); err != nil || !since {
		return nil
	}
	result, err := n.plugins.GetNetworkListCachedResult(list, rt)
	if err != nil {
		return nil
	}
	return result
}

func (n *Networks) delOne(ctx context.Context, list *libcni.NetworkConfigList, plugin *libcni.PluginConfig, previous types.Result, rt *libcni.RuntimeConf) error {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	if _, err := pluginTypes(&libcni.NetworkConfigList{Plugins: []*libcni.PluginConfig{plugin}}); err != nil {
		return err
	}
	inject := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	if previous != nil {
		inject["prevResult"] = previous
	}
	args := make(map[string]any)
	for capability, supported := range plugin.Network.Capabilities {
		if value, given := rt.CapabilityArgs[capability]; supported && given {
			args[capability] = value
		}
	}
	if len(args) > 0 {
		inject["runtimeConfig"] = args
	}
	conf, err := libcni.InjectConf(plugin, inject)
	if err != nil {
		return fmt.Errorf("configuration of plugin %q: %w", plugin.Network.Type, err)
	}
	path, err := findPlugin(plugin.Network.Type, n.binDirs)
	if err != nil {
		return err
	}
	return invoke.ExecPluginWithoutResult(ctx, path, conf.Bytes, &invoke.Args{
		Command:     "DEL",
		ContainerID: rt.ContainerID,
		NetNS:       rt.NetNS,
		IfName:      rt.IfName,
		PluginArgs:  rt.Args,
		Path:        strings.Join(n.binDirs, string(filepath.ListSeparator)),
	}, &pluginExec{})
}

// listOf returns the configuration at the time of the ADD. For a debt of which only the name
// is left the network's present one has to do.
func (n *Networks) listOf(d *debt) (*libcni.NetworkConfigList, error) {
	if !d.nameOnly {
		list, err := libcni.NetworkConfFromBytes(d.Config)
		if err != nil {
			return nil, fmt.Errorf("configuration in the debt: %w", err)
		}
		return list, nil
	}
	net := n.network()
	if net == nil || net.list.Name != d.Network {
		return nil, fmt.Errorf("the debt is damaged and network %q is not configured: %w", d.Network, errdefs.ErrUnavailable)
	}
	return net.list, nil
}

// liveNetNS returns path, or "" if no namespace is there any more: then plugins release what
// is outside of it (CNI specification, DEL).
func liveNetNS(path string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return ""
	}
	return path
}

// stepError takes the plugin's error out of libcni's words around it.
func stepError(err error) error {
	var failure *pluginError
	if errors.As(err, &failure) {
		return failure
	}
	return err
}

// without returns list without the plugins at these positions.
func without(list *libcni.NetworkConfigList, positions []int) *libcni.NetworkConfigList {
	if len(positions) == 0 {
		return list
	}
	rest := *list
	rest.Plugins = nil
	for i, plugin := range list.Plugins {
		if !slices.Contains(positions, i) {
			rest.Plugins = append(rest.Plugins, plugin)
		}
	}
	return &rest
}

// idlePlugins returns the positions of plugins that would only repeat the result before them.
//
// The specification has every plugin of a chain run. Of two reference plugins it is known what
// they do when the pod has no argument for them: portmap and, unless its configuration has
// limits of its own, bandwidth print the previous result at ADD and change nothing at DEL.
// Starting a program to learn this is a fifth of an ADD's CPU time. A plugin skipped at ADD
// is skipped at that pod's DEL, and no other.
func idlePlugins(list *libcni.NetworkConfigList, capabilities map[string]any) []int {
	var idle []int
	for i, plugin := range list.Plugins {
		if i == 0 {
			continue // nothing before it to repeat
		}
		var capability string
		switch plugin.Network.Type {
		case "portmap":
			capability = capPortMappings
		case "bandwidth":
			capability = capBandwidth
			if hasOwnLimits(plugin.Bytes) {
				continue
			}
		default:
			continue
		}
		// Without the capability its arguments come from elsewhere.
		if _, given := capabilities[capability]; !given && plugin.Network.Capabilities[capability] {
			idle = append(idle, i)
		}
	}
	return idle
}

func hasOwnLimits(config []byte) bool {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(config, &keys); err != nil {
		return true
	}
	for key := range keys {
		switch key {
		case "type", "capabilities", "name", "cniVersion":
		default:
			return true
		}
	}
	return false
}

// attachment reads the pod's addresses from a result of any version. The error is
// ErrFailedPrecondition when the network gave none: nobody could reach the pod.
func attachment(network string, result types.Result) (*Attachment, error) {
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("read result of network %q: %w", network, err)
	}
	data, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("read result of network %q: %w", network, err)
	}
	attached := &Attachment{Network: network, Result: data}
	for _, ip := range current.IPs {
		if !isPodInterface(current, ip.Interface) {
			continue
		}
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			attached.IPs = append(attached.IPs, addr.Unmap())
		}
	}
	if len(attached.IPs) == 0 {
		return nil, fmt.Errorf("network %q gave the pod no address: %w", network, errdefs.ErrFailedPrecondition)
	}
	return attached, nil
}

// isPodInterface tells whether an address is of InterfaceName in the pod. Plugins that report
// no interfaces have only that one.
func isPodInterface(result *types100.Result, index *int) bool {
	if index == nil || *index < 0 || *index >= len(result.Interfaces) {
		return true
	}
	iface := result.Interfaces[*index]
	return iface.Name == InterfaceName && iface.Sandbox != ""
}
