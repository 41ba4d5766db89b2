package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

func (a *app) rmiCommand() *cobra.Command {
	var all, prune bool
	cmd := &cobra.Command{
		Use:   "rmi IMAGE...",
		Short: "Remove images",
		Long: `Remove images with all their names. The layers of an image that a container uses
stay until the container goes.`,
		Args: func(cmd *cobra.Command, args []string) error {
			every := all || prune
			return argsOrAll(&every, "images")(cmd, args)
		},
		ValidArgsFunction: a.completeImages(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			if all || prune {
				return a.rmiAll(ctx, c, prune)
			}
			return a.each(args, func(ref string) error {
				image, err := c.Image(ctx, ref)
				if err != nil {
					return err
				}
				return removeImage(ctx, c, image)
			})
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all images that are not pinned")
	cmd.Flags().BoolVar(&prune, "prune", false, "all images that no container uses and that are not pinned")
	return cmd
}

func removeImage(ctx context.Context, c *client.Client, image *runtimeapi.Image) error {
	_, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image.Id}})
	if err != nil {
		return fmt.Errorf("remove image %s: %w", client.Short(image.Id), err)
	}
	return nil
}

func (a *app) rmiAll(ctx context.Context, c *client.Client, onlyUnused bool) error {
	images, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, image := range images.Images {
		if image.Pinned || onlyUnused && isUsed(image, containers.Containers) {
			continue
		}
		if err := removeImage(ctx, c, image); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(a.stdout, image.Id)
	}
	return errors.Join(errs...)
}

func isUsed(image *runtimeapi.Image, containers []*runtimeapi.Container) bool {
	for _, ctr := range containers {
		if usesImage(ctr, image) {
			return true
		}
	}
	return false
}
