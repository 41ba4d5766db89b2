package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// newCommand is the command line. What the daemon does once its surroundings are
// set up is handed in, so that tests of these need no privileges.
func newCommand(run runFunc) *cobra.Command {
	var flags flags
	cmd := &cobra.Command{
		Use:   "berthd",
		Short: "Berth's daemon, a container runtime for the kubelet",
		Long: `berthd serves the Container Runtime Interface (CRI v1) on a Unix socket.

Signals: SIGTERM and SIGINT end it and leave the pods running, a second one ends
it at once; SIGHUP reads the configuration again.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), &flags, run)
		},
	}
	flags.register(cmd.PersistentFlags())
	cmd.AddCommand(newConfigCommand(&flags), newVersionCommand())
	return cmd
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "berthd %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}
