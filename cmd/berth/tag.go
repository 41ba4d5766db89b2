package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) tagCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME",
		Short:             "Give an image another name",
		Long:              `Give an image another name, which it takes away from the image that had it.`,
		Args:              exactly(2, "an image and a name"),
		ValidArgsFunction: a.completeImages(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			return a.printNamed(c.Transfers.Tag(ctx, berthapi.TagRequest{Image: args[0], Name: args[1]}))
		}),
	}
}

func (a *app) untagCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "untag NAME...",
		Short: "Take names away from images",
		Long: `Take names away from images. The images stay, also one that has no name left: rmi
removes it by its ID, and the kubelet when nothing uses it.`,
		Args:              minArgs(1, "names"),
		ValidArgsFunction: a.completeImages(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(name string) error {
				_, err := c.Transfers.Untag(ctx, berthapi.UntagRequest{Name: name})
				return err
			})
		}),
	}
}

func (a *app) printNamed(n berthapi.Named, err error) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s is image %s\n", n.Name, client.Short(n.ID))
	return err
}
