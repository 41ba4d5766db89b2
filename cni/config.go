package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// maxConfigSize is far beyond any configuration written by a person or an installer.
const maxConfigSize = 1 << 20

// network is a loaded configuration. It never changes.
type network struct {
	file string
	// list.Bytes is the whole configuration, with what the file took from its directory.
	list *libcni.NetworkConfigList
	// types are the plugins it needs, those named for IPAM too.
	types []string
}

// errNoConfig says that no directory has a configuration.
var errNoConfig = errors.New("no network configuration")

// loadNetwork reads the first configuration of dirs. A broken file is an error even where a
// later one is whole: pods would silently come up on another network than the one meant.
func loadNetwork(dirs []string) (*network, error) {
	for _, dir := range dirs {
		file, err := firstConfig(dir)
		if err != nil {
			return nil, fmt.Errorf("read network configurations: %w", err)
		}
		if file == "" {
			continue
		}
		net, err := readNetwork(file)
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", file, err)
		}
		return net, nil
	}
	return nil, fmt.Errorf("%w (*.conflist, *.conf or *.json) in %s", errNoConfig, strings.Join(dirs, ", "))
}

// firstConfig returns the lexicographically first configuration of dir, or "" where dir or
// a configuration in it is missing. Hidden files are those that an editor or an installer
// has not renamed into place yet.
func firstConfig(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if entry.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		switch filepath.Ext(entry.Name()) {
		case ".conflist", ".conf", ".json":
			return filepath.Join(dir, entry.Name()), nil
		}
	}
	return "", nil
}

func readNetwork(file string) (*network, error) {
	data, err := readConfigFile(file)
	if err != nil {
		return nil, err
	}
	list, err := parseList(data)
	if err != nil {
		return nil, err
	}
	if name := utils.ValidateNetworkName(list.Name); name != nil {
		return nil, name
	}
	if !list.LoadOnlyInlinedPlugins {
		// CNI 1.1: a directory named like the network adds plugins to its chain.
		more, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(file), list.Name)
		if err != nil {
			return nil, err
		}
		list.Plugins = append(list.Plugins, more...)
	}
	return newNetwork(file, list)
}

func readConfigFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfigSize {
		return nil, fmt.Errorf("it is larger than %d bytes", maxConfigSize)
	}
	return data, nil
}

// parseList parses a list of plugins, or the older form of a single one, which the name of
// the file does not tell apart: .json is used for both.
func parseList(data []byte) (*libcni.NetworkConfigList, error) {
	var single struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(data, &single); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	if single.Type == "" {
		return libcni.NetworkConfFromBytes(data)
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{
		"name":                   plugin.Network.Name,
		"cniVersion":             plugin.Network.CNIVersion,
		"loadOnlyInlinedPlugins": true,
		"plugins":                []json.RawMessage{data},
	})
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	return libcni.NetworkConfFromBytes(list)
}

// newNetwork checks list and makes its Bytes stand for all of it.
func newNetwork(file string, list *libcni.NetworkConfigList) (*network, error) {
	if name := utils.ValidateNetworkName(list.Name); name != nil {
		return nil, name
	}
	newer, err := version.GreaterThan(list.CNIVersion, version.Current())
	if err != nil {
		return nil, fmt.Errorf("cniVersion %q: %w", list.CNIVersion, err)
	}
	if newer {
		return nil, fmt.Errorf("cniVersion %q is newer than %s, the newest known", list.CNIVersion, version.Current())
	}
	if len(list.Plugins) == 0 {
		return nil, fmt.Errorf("network %q has no plugins", list.Name)
	}
	types, err := pluginTypes(list)
	if err != nil {
		return nil, err
	}
	if list.Bytes, err = marshalList(list); err != nil {
		return nil, err
	}
	return &network{file: file, list: list, types: types}, nil
}

// pluginTypes returns the plugins of a network. A type is the name of a program in one of
// the plugin directories: one with a slash would leave them (CVE-2021-20206).
func pluginTypes(list *libcni.NetworkConfigList) ([]string, error) {
	var types []string
	for i, plugin := range list.Plugins {
		names := []string{plugin.Network.Type}
		if ipam := plugin.Network.IPAM.Type; ipam != "" {
			names = append(names, ipam)
		}
		for _, name := range names {
			if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return nil, fmt.Errorf("plugin %d: type %q is not the name of a program", i+1, name)
			}
			if !slices.Contains(types, name) {
				types = append(types, name)
			}
		}
	}
	return types, nil
}

// marshalList writes list with every plugin inside, so that it can be read back anywhere.
func marshalList(list *libcni.NetworkConfigList) ([]byte, error) {
	plugins := make([]json.RawMessage, len(list.Plugins))
	for i, plugin := range list.Plugins {
		plugins[i] = plugin.Bytes
	}
	return json.Marshal(map[string]any{
		"name":                   list.Name,
		"cniVersion":             list.CNIVersion,
		"disableCheck":           list.DisableCheck,
		"disableGC":              list.DisableGC,
		"loadOnlyInlinedPlugins": true,
		"plugins":                plugins,
	})
}

// missingOf returns the plugins that no directory has.
func missingOf(plugins, binDirs []string) []string {
	var missing []string
	for _, name := range plugins {
		if _, err := findPlugin(name, binDirs); err != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// hasCapability tells whether a plugin of the network takes that capability argument.
func (net *network) hasCapability(name string) bool {
	return slices.ContainsFunc(net.list.Plugins, func(plugin *libcni.PluginConfig) bool {
		return plugin.Network.Capabilities[name]
	})
}
