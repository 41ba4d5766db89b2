package main

import (
	"log/slog"

	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice"
	"github.com/berth-cri/berth/runtimeservice/cdi"
)

// newDevices gives containers CDI devices; nil where the configuration names no
// directory that describes any.
func newDevices(cfg config.Runtime, log *slog.Logger) (runtimeservice.Devices, error) {
	if len(cfg.CdiSpecDirs) == 0 {
		return nil, nil
	}
	return cdi.New(cfg.CdiSpecDirs, log)
}
