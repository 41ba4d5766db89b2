package main

import (
	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice"
	"github.com/berth-cri/berth/runtimeservice/nri"
)

// newPlugins makes the set of NRI plugins; nil where the configuration wants none.
func newPlugins(cfg config.NRI, s *surface) *nri.Plugins {
	if !cfg.Enabled {
		return nil
	}
	nri.SetLogger(s.Logger)
	socket := cfg.Socket
	if cfg.DisableConnections {
		socket = ""
	}
	v := cfg.DefaultValidator
	return nri.New(nri.Options{
		Socket:              socket,
		PluginDir:           cfg.PluginDir,
		ConfigDir:           cfg.PluginConfigDir,
		RegistrationTimeout: cfg.RegistrationTimeout,
		RequestTimeout:      cfg.RequestTimeout,
		Validator: nri.Validator{
			Enabled:                   v.Enabled,
			RejectHooks:               v.RejectHooks,
			RejectRuntimeDefault:      v.RejectRuntimeDefaultSeccomp,
			RejectUnconfined:          v.RejectUnconfinedSeccomp,
			RejectCustomSeccomp:       v.RejectCustomSeccomp,
			RejectNamespaces:          v.RejectNamespaces,
			RejectSysctls:             v.RejectSysctls,
			RequiredPlugins:           v.RequiredPlugins,
			TolerateMissingAnnotation: v.TolerateMissingPluginsAnnotation,
		},
		Version:  version,
		Registry: s.Registry,
		Logger:   s.Logger,
	})
}

// asPlugins keeps a set that is absent from looking like one that is there.
func asPlugins(plugins *nri.Plugins) runtimeservice.Plugins {
	if plugins == nil {
		return nil
	}
	return plugins
}

// startPlugins returns what ends them.
func startPlugins(plugins *nri.Plugins, runtime *runtimeservice.Service) (stop func(), err error) {
	if plugins == nil {
		return func() {}, nil
	}
	return plugins.Stop, plugins.Start(runtime.PluginRuntime())
}
