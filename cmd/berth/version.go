package main

import (
	"fmt"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

// version is set by the linker; a build without it knows its module version.
var version string

func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

type versions struct {
	Client  clientVersion  `json:"client"`
	Runtime *serverVersion `json:"runtime,omitempty"`
}

type clientVersion struct {
	Version   string `json:"version"`
	GoVersion string `json:"goVersion"`
}

type serverVersion struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	APIVersion string `json:"apiVersion"`
}

func (a *app) versionCommand() *cobra.Command {
	var format output.Format
	var clientOnly bool
	cmd := &cobra.Command{
		Use:               "version",
		Short:             "Show the versions of berth and of the runtime",
		Args:              noArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: clientVersion{Version: ownVersion(), GoVersion: runtime.Version()}}
			var err error
			if !clientOnly {
				v.Runtime, err = a.serverVersion(cmd)
			}
			// What is known is shown even if the runtime is not there.
			if printErr := a.printVersions(v, format); printErr != nil {
				return printErr
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "do not ask the runtime")
	outputFlag(cmd, &format, output.Table)
	return cmd
}

func (a *app) serverVersion(cmd *cobra.Command) (*serverVersion, error) {
	var c *client.Client
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	resp, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("read version: %w", err)
	}
	return &serverVersion{Name: resp.RuntimeName, Version: resp.RuntimeVersion, APIVersion: resp.RuntimeApiVersion}, nil
}

func (a *app) printVersions(v versions, format output.Format) error {
	if format != output.Table {
		return output.Data(a.stdout, format, v)
	}
	pairs := [][2]string{{"Version", v.Client.Version}, {"GoVersion", v.Client.GoVersion}}
	if v.Runtime != nil {
		pairs = append(pairs,
			[2]string{"RuntimeName", v.Runtime.Name},
			[2]string{"RuntimeVersion", v.Runtime.Version},
			[2]string{"RuntimeApiVersion", v.Runtime.APIVersion})
	}
	return output.Pairs(a.stdout, pairs)
}
