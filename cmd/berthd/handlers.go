package main

import (
	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice"
	"github.com/berth-cri/berth/runtimeservice/handlers"
)

// newHandlers makes the ways to run containers, which follow the configuration.
func newHandlers(cfg config.Config, s *surface) *handlers.Set {
	set := handlers.New(handlers.Options{
		Default:  cfg.Runtime.DefaultHandler,
		Settings: handlerSettings(cfg.Runtimes),
		Builtin:  runtimeservice.BuiltinFeatures(),
		Logger:   s.Logger,
	})
	reload := func(c config.Config) { set.Reload(c.Runtime.DefaultHandler, handlerSettings(c.Runtimes)) }
	s.OnReload("runtime.defaultHandler", reload)
	s.OnReload("runtimes", reload)
	s.OnHangup(set.LookAgain)
	return set
}

func handlerSettings(configured map[string]config.Handler) map[string]handlers.Settings {
	all := make(map[string]handlers.Settings, len(configured))
	for name, h := range configured {
		all[name] = handlers.Settings{
			Path:                         h.Path,
			Args:                         h.Args,
			Annotations:                  h.Annotations,
			SeccompProfile:               h.SeccompProfile,
			PrivilegedWithoutHostDevices: h.PrivilegedWithoutHostDevices,
			CgroupWritable:               h.Cgroup.Writable,
			MinMemory:                    h.Cgroup.MinMemory,
			ReadonlyRootfs:               h.Rootfs.Readonly,
			NetworkConfDirs:              h.Network.ConfDirs,
		}
	}
	return all
}
