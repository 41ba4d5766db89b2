// Command berthd is Berth's daemon: it serves the Container Runtime Interface on
// a Unix socket.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "unknown"

func main() { os.Exit(execute(newCommand(run))) }

// execute returns the exit code.
func execute(cmd *cobra.Command) int {
	err := cmd.Execute()
	if err == nil {
		return 0
	}
	// One line for each mistake in a configuration.
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(os.Stderr, "berthd: %s\n", strings.TrimSuffix(line, "\n"))
	}
	return 1
}
