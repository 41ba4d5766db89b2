package runtimeservice

import (
	"log/slog"

	"github.com/berth-cri/berth/runtimeservice/record"
)

// sessions are what clients have with running containers and ready sandboxes: exec,
// attach and port-forward. They leave no state behind.
type sessions struct {
	sandboxes  *table[sandboxKey, *sandbox]
	containers *table[containerKey, *container]
	monitor    Streams
	// processes reads the part of specifications that an exec needs; it writes nothing.
	processes *record.Store[processSpec]
	log       *slog.Logger
}
