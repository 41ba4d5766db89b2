package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/berth-cri/berth/config"
)

// flags are the command line's part of the configuration.
type flags struct {
	set *pflag.FlagSet
}

// A flag that stands for a key of the configuration.
type keyFlag struct {
	name, key, usage string
	// path marks a path, which may be relative on a command line.
	path bool
}

var keyFlags = []keyFlag{
	{"root", "root", "`DIR` of what survives a reboot (default /var/lib/berth)", true},
	{"state", "state", "`DIR` of what is gone after a reboot (default /run/berth)", true},
	{"address", "address", "`PATH` of the Unix socket that serves the CRI (default berth.sock in the state directory)", true},
	{"log-level", "log.level", "least `LEVEL` to log: debug, info, warn, error (default info)", false},
	{"log-format", "log.format", "`FORMAT` of the log: text or json (default text)", false},
	{"metrics-address", "metrics.address", "`HOST:PORT` of metrics, health and profiles (default none)", false},
}

func (f *flags) register(set *pflag.FlagSet) {
	f.set = set
	set.String("config", "", fmt.Sprintf("configuration `FILE`, with drop-ins in FILE.d (default %s, if it is there)", config.DefaultFile))
	for _, k := range keyFlags {
		set.String(k.name, "", k.usage)
	}
}

// source is where the configuration comes from, according to the flags.
func (f *flags) source() (config.Source, error) {
	src := config.Source{File: config.DefaultFile, Optional: true}
	if f.set.Changed("config") {
		file, err := f.set.GetString("config")
		if err != nil {
			return config.Source{}, err
		}
		src.File, src.Optional = file, false
	}
	for _, k := range keyFlags {
		if !f.set.Changed(k.name) {
			continue
		}
		value, err := f.set.GetString(k.name)
		if err != nil {
			return config.Source{}, err
		}
		if value, err = k.absolute(value); err != nil {
			return config.Source{}, err
		}
		src.Overrides = append(src.Overrides, config.Override{Key: k.key, Value: value, Origin: "--" + k.name})
	}
	return src, nil
}

// absolute makes a path independent of the working directory; an empty one is
// left to the configuration's own check.
func (k keyFlag) absolute(value string) (string, error) {
	if !k.path || value == "" {
		return value, nil
	}
	path, err := filepath.Abs(strings.TrimPrefix(value, "unix://"))
	if err != nil {
		return "", fmt.Errorf("--%s %q: %w", k.name, value, err)
	}
	return path, nil
}

// load reads the configuration that the flags ask for.
func (f *flags) load() (*config.Loaded, error) {
	src, err := f.source()
	if err != nil {
		return nil, err
	}
	return config.Load(src)
}
