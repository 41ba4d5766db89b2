package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) commitCommand() *cobra.Command {
	var req berthapi.CommitRequest
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "commit CONTAINER IMAGE",
		Short: "Make an image of a container",
		Long: `commit makes an image of a container's image and what the container has written since,
which is one layer more. The container stands still while that is read, and goes on in
any case. What lies in mounts and volumes is no part of it.`,
		Example: `  berth commit web/nginx registry.example/web:fixed --message "with the patch"
  berth commit web/nginx web:debug --change 'CMD ["sleep", "1h"]' --change 'ENV DEBUG=1'`,
		Args:              exactly(2, "a container and the name of the new image"),
		ValidArgsFunction: a.completeContainers(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			ctr, err := c.Container(ctx, args[0])
			if err != nil {
				return err
			}
			req.ContainerID, req.Name, req.Seconds = ctr.Id, args[1], timeout.Seconds()
			image, err := c.Containers.Commit(ctx, req)
			if err != nil {
				return onlyBerth(err)
			}
			fmt.Fprintln(a.stdout, image.ID)
			return nil
		}),
	}
	cmd.Flags().StringVar(&req.Author, "author", "", "`author` of the image")
	cmd.Flags().StringVar(&req.Message, "message", "", "`text` for the image's history")
	cmd.Flags().StringArrayVar(&req.Changes, "change", nil, "`instruction` of a Dockerfile that changes the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR")
	cmd.Flags().BoolVar(&req.Running, "no-pause", false, "let the container run meanwhile; files may come out half written")
	durationVarP(cmd.Flags(), &timeout, "timeout", "t", 2*time.Minute, "how long the container may stand still")
	return cmd
}
