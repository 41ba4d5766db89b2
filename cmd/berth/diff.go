package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) diffCommand() *cobra.Command {
	var format output.Format
	cmd := &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "List what a container has changed of its image",
		Long: `diff lists the paths that differ from the container's image: A was added, C changed,
D deleted. A directory that was removed and made anew is both deleted and added. What
lies in mounts and volumes is no part of it.`,
		Args:              exactly(1, "a container"),
		ValidArgsFunction: a.completeContainers(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			return a.diff(ctx, c, args[0], format)
		}),
	}
	outputFlag(cmd, &format, output.Table)
	return cmd
}

func (a *app) diff(ctx context.Context, c *client.Client, ref string, format output.Format) error {
	ctr, err := c.Container(ctx, ref)
	if err != nil {
		return err
	}
	changes := []berthapi.Change{}
	err = c.Containers.Diff(ctx, berthapi.DiffRequest{ContainerID: ctr.Id}, func(change berthapi.Change) error {
		if format != output.Table {
			changes = append(changes, change)
			return nil
		}
		// A name may hold what moves the cursor of a terminal.
		_, err := fmt.Fprintf(a.stdout, "%s %s\n", strings.ToUpper(change.Kind[:1]), output.Name(change.Path))
		return err
	})
	if err != nil {
		return onlyBerth(err)
	}
	if format != output.Table {
		return output.Data(a.stdout, format, changes)
	}
	return nil
}

// onlyBerth explains the error of a runtime that does not know the files of containers.
func onlyBerth(err error) error {
	if client.Code(err) == codes.Unimplemented {
		return client.WithHint(fmt.Errorf("the runtime does not give access to the files of containers"), "is it an older Berth, or another runtime? Look at `berth version`")
	}
	return err
}
