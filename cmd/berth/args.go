package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

// exactly has a command take n arguments, which what names.
func exactly(n int, what string) cobra.PositionalArgs {
	return argsIf(func(got int) bool { return got == n }, "takes "+what)
}

func minArgs(n int, what string) cobra.PositionalArgs {
	return argsIf(func(got int) bool { return got >= n }, "needs "+what)
}

func maxArgs(n int, what string) cobra.PositionalArgs {
	return argsIf(func(got int) bool { return got <= n }, "takes "+what)
}

// noArgs says so itself: cobra's own takes the argument for a command it does not know.
func noArgs() cobra.PositionalArgs { return exactly(0, "no arguments") }

func argsIf(enough func(got int) bool, says string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if enough(len(args)) {
			return nil
		}
		return client.WithHint(fmt.Errorf("%s %s", cmd.Name(), says), "usage: "+cmd.UseLine())
	}
}

// argsOrAll accepts either arguments or --all.
func argsOrAll(all *bool, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if *all && len(args) > 0 {
			return fmt.Errorf("--all and the names of %s exclude each other", what)
		}
		if *all {
			return nil
		}
		return minArgs(1, what+" or --all")(cmd, args)
	}
}
