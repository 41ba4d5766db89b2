package main

import (
	"context"
	"log/slog"

	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice"
	"github.com/berth-cri/berth/runtimeservice/apparmor"
	"github.com/berth-cri/berth/runtimeservice/selinux"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

// newLabels gives containers SELinux labels, where the node has a policy for that.
func newLabels(cfg config.Runtime, log *slog.Logger) (*selinux.Node, error) {
	if !cfg.SelinuxLabels {
		return selinux.Off(), nil
	}
	labels, err := selinux.New(selinux.Kernel{})
	if err == nil && labels.Enabled() && !labels.KnowsContainers() {
		log.Warn("containers have no SELinux labels: the policy has no contexts for them (lxc_contexts)")
	}
	return labels, err
}

// newAppArmor gives containers the configured default profile, on a node with
// AppArmor. One that cannot be loaded is no reason not to serve: containers that
// do not choose a profile have none then, and one that asks for it is refused.
func newAppArmor(ctx context.Context, cfg config.Runtime, host *spec.Host, defaults *spec.Defaults, log *slog.Logger) runtimeservice.AppArmor {
	profiles := apparmor.New()
	if !host.AppArmor || cfg.ApparmorProfile == "" {
		return profiles
	}
	check := profiles.Require
	if cfg.ApparmorProfile == apparmor.DefaultProfile {
		// What is loaded may be an earlier version's.
		check = func(ctx context.Context, _ string) error { return profiles.Load(ctx) }
	}
	if err := check(ctx, cfg.ApparmorProfile); err != nil {
		log.Warn("containers run without the default AppArmor profile", "error", err)
		return profiles
	}
	defaults.AppArmorProfile = cfg.ApparmorProfile
	return profiles
}
