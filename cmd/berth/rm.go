package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

func (a *app) rmCommand() *cobra.Command {
	var all, force bool
	cmd := &cobra.Command{
		Use:   "rm CONTAINER...",
		Short: "Remove containers",
		Long: `Remove containers. One that runs is refused unless -f is given, which kills it. A
container made by ` + "`berth run`" + ` is removed with its pod and its log.`,
		Args:              argsOrAll(&all, "containers"),
		ValidArgsFunction: a.completeContainers(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			if all {
				return a.rmAll(ctx, c, force)
			}
			return a.each(args, func(ref string) error {
				ctr, err := c.Container(ctx, ref)
				if err != nil {
					return err
				}
				return removeContainer(ctx, c, ctr, force)
			})
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all containers that do not run; with -f all containers")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also containers that run")
	return cmd
}

func (a *app) rmAll(ctx context.Context, c *client.Client, force bool) error {
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, ctr := range list.Containers {
		if ctr.State == runtimeapi.ContainerState_CONTAINER_RUNNING && !force {
			continue
		}
		if err := removeContainer(ctx, c, ctr, force); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(a.stdout, ctr.Id)
	}
	return errors.Join(errs...)
}

func removeContainer(ctx context.Context, c *client.Client, ctr *runtimeapi.Container, force bool) error {
	if ctr.State == runtimeapi.ContainerState_CONTAINER_RUNNING && !force {
		return client.WithHint(
			fmt.Errorf("container %q is running", ctr.GetMetadata().GetName()),
			"stop it first, or remove it with -f")
	}
	if isRun(ctr.Labels) {
		return removePod(ctx, c, ctr.PodSandboxId)
	}
	if _, err := c.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: ctr.Id}); err != nil {
		return fmt.Errorf("remove container %s: %w", client.Short(ctr.Id), err)
	}
	return nil
}
