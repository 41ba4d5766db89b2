package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) pushCommand() *cobra.Command {
	var req berthapi.PushRequest
	var quiet bool
	var creds string
	cmd := &cobra.Command{
		Use:   "push IMAGE",
		Short: "Bring an image to a registry",
		Long: `Bring an image to a registry, the one of its name or that of --to. The blobs are those
that came, with their digests; what the registry has already is not sent. If the name
leads to an index of which this node has only its platform's image, only that is pushed.`,
		Args:              exactly(1, "an image"),
		ValidArgsFunction: a.completeImages(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			auth, err := a.credentials(creds)
			if err != nil {
				return err
			}
			req.Image, req.Username, req.Password = args[0], auth.GetUsername(), auth.GetPassword()
			return a.push(ctx, c, req, quiet)
		}),
	}
	cmd.Flags().StringVar(&req.Target, "to", "", "`name` that the image gets, in place of its own")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress, print only the digest")
	addCredentials(cmd, &creds)
	return cmd
}

func (a *app) push(ctx context.Context, c *client.Client, req berthapi.PushRequest, quiet bool) error {
	view := a.newPullView(req.Image)
	var done berthapi.PushEvent
	err := c.Transfers.Push(ctx, req, func(e berthapi.PushEvent) {
		if len(e.Blobs) > 0 && !quiet {
			view.show(berthapi.Snapshot{Ref: req.Image, Layers: e.Blobs})
		}
		done = e
	})
	if err != nil {
		return err
	}
	if done.Note != "" {
		fmt.Fprintf(a.stderr, "note: %s\n", done.Note)
	}
	if quiet {
		_, err = fmt.Fprintln(a.stdout, done.Digest)
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s is %s\n", done.Target, done.Digest)
	return err
}
