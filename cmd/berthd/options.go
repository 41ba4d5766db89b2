package main

import (
	"maps"
	"math"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// specDefaults is what the configuration says for that which a container's
// request leaves open.
func specDefaults(cfg config.Runtime) spec.Defaults {
	d := spec.Defaults{
		Capabilities: cfg.Capabilities,
		SeccompUnset: spec.SeccompUnconfined,
		PidsLimit:    cfg.PidsLimit,
	}
	if cfg.UnsetSeccompProfile == config.SeccompRuntimeDefault {
		d.SeccompUnset = spec.SeccompRuntimeDefault
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Env)) {
		d.Env = append(d.Env, name+"="+cfg.Env[name])
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Rlimits)) {
		limit := cfg.Rlimits[name]
		d.Rlimits = append(d.Rlimits, specs.POSIXRlimit{Type: name, Soft: rlimit(limit.Soft), Hard: rlimit(limit.Hard)})
	}
	return d
}

// rlimit is the kernel's number for a limit.
func rlimit(limit int64) uint64 {
	if limit == config.Unlimited {
		return math.MaxUint64 // RLIM_INFINITY
	}
	return uint64(limit)
}

// platform is nil for this machine's.
func platform(name string) *ocispec.Platform {
	if name == "" {
		return nil
	}
	parts := append(strings.SplitN(name, "/", 3), "", "")
	return &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
}
