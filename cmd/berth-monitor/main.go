// Command berth-monitor is the parent of every container of a node. berthd
// starts it; nobody else has to.
//
//	berth-monitor serve DIR [CGROUP]   serve the directory, in the background
//	berth-monitor init                 libcontainer's init, for the monitor itself
//	berth-monitor pod-init ...         init of a pod, for the monitor itself
//	berth-monitor resolve-path PATH    look at a path that may hang, for berthd
//	berth-monitor seccomp-filter   compile a seccomp profile, for the monitor itself
//	berth-monitor version
package main

import (
	"fmt"
	"os"

	"github.com/berth-cri/berth/runtimeservice/hostpath"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
	"github.com/berth-cri/berth/runtimeservice/monitor/seccompcache"
)

// version is set by the linker.
var version = "dev"

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "version":
		fmt.Printf("berth-monitor %s, protocol %d\n", version, protocol.Version)
	case (len(os.Args) == 3 || len(os.Args) == 4) && os.Args[1] == "serve":
		cgroup := ""
		if len(os.Args) == 4 {
			cgroup = os.Args[3]
		}
		serve(os.Args[2], cgroup)
	case len(os.Args) == 2 && os.Args[1] == seccompcache.Command:
		fmt.Fprintln(os.Stderr, seccompcache.Compile(os.Stdin))
		os.Exit(1)
	case len(os.Args) == 3 && (os.Args[1] == hostpath.Command || os.Args[1] == hostpath.ReadCommand):
		if err := hostpath.Run(os.Args[1], os.Args[2], os.Stdout); err != nil {
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: berth-monitor serve DIR [CGROUP] | version")
		os.Exit(2)
	}
}
