package main

import (
	"os"
	"runtime/debug"

	"github.com/opencontainers/runc/libcontainer"
	// Its C code joins and makes the namespaces before Go runs.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	"github.com/berth-cri/berth/runtimeservice/monitor/smallpages"
)

// init is where every start and every exec of a container comes by, in a process
// of its own that becomes the container's. It does not live long enough for
// a garbage collection to pay.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		debug.SetGCPercent(-1)
		smallpages.End()
		libcontainer.Init()
	}
}
