package runtimeservice

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"github.com/berth-cri/berth/runtimeservice/podmetrics"
	"github.com/berth-cri/berth/runtimeservice/stats"
)

// meter measures what pods and containers use, for the calls about statistics and for
// metrics, which share what is read. It changes nothing of them.
type meter struct {
	sandboxes  *table[sandboxKey, *sandbox]
	containers *table[containerKey, *container]
	rootfs     RootFilesystems
	log        *slog.Logger
	// root is the directory whose file system the writable layers are on.
	root string
	// sharedParent is the cgroup of pods that name none.
	sharedParent  string
	systemdCgroup bool
	// inBackground runs what several calls wait for.
	inBackground func(what string, do func(context.Context) error)

	stats *stats.Reader
	usage usageCache
	// metrics are those that this node has, found out with the first call.
	metrics func() *podmetrics.Set
	scrapes scrapes
}

func newMeter(s *Service) *meter {
	reader := stats.NewReader(s.opts.CgroupRoot)
	return &meter{
		sandboxes: s.sandboxes, containers: s.containers, rootfs: s.opts.RootFilesystems, log: s.log,
		root: cmp.Or(s.opts.WritableDir, s.opts.Root), sharedParent: s.opts.CgroupParent, systemdCgroup: s.opts.SystemdCgroup,
		inBackground: s.inBackground,
		stats:        reader,
		metrics:      sync.OnceValue(func() *podmetrics.Set { return podmetrics.New(reader.Features()) }),
	}
}
