package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/config"
)

func newConfigCommand(flags *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show and check the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigDefault(), newConfigCheck(flags), newConfigPrint(flags))
	return cmd
}

func newConfigDefault() *cobra.Command {
	return &cobra.Command{
		Use:   "default",
		Short: "Print every key with its default and its meaning",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), config.DefaultYAML())
			return err
		},
	}
}

func newConfigCheck(flags *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Read the configuration as a start would, and say what is wrong with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := flags.load()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, file := range loaded.Files {
				fmt.Fprintf(out, "read %s\n", file)
			}
			_, err = fmt.Fprintln(out, "the configuration is valid")
			return err
		},
	}
}

func newConfigPrint(flags *flags) *cobra.Command {
	var withOrigins bool
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the configuration that is in force with these files and flags",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := flags.load()
			if err != nil {
				return err
			}
			var origins map[string]config.Origin
			if withOrigins {
				origins = loaded.Origins
			}
			return config.Print(cmd.OutOrStdout(), loaded.Config, origins)
		},
	}
	cmd.Flags().BoolVar(&withOrigins, "origins", false, "tell where each value that is not a default comes from")
	return cmd
}
