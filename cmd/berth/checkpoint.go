package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

// answerTime is added to the time of a checkpoint for what is not it: the answer comes
// when the containers go on.
const answerTime = 30 * time.Second

func (a *app) checkpointCommand() *cobra.Command {
	var pod bool
	var timeout time.Duration
	var options map[string]string
	cmd := &cobra.Command{
		Use:   "checkpoint CONTAINER FILE | --pod POD DIRECTORY",
		Short: "Write a checkpoint of a container or a pod",
		Long: `Write a checkpoint of a running container as an archive, or of all running containers
of a pod into an empty directory. They stand still meanwhile, and go on in any case.`,
		Args: exactly(2, "a container and a file, or --pod with a pod and a directory"),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			path, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, timeout+answerTime)
			defer cancel()
			if pod {
				return checkpointPod(ctx, c, args[0], path, options)
			}
			if len(options) > 0 {
				return fmt.Errorf("--option is for pods")
			}
			return checkpointContainer(ctx, c, args[0], path, timeout)
		}),
		ValidArgsFunction: a.completeContainers(1),
	}
	cmd.Flags().BoolVar(&pod, "pod", false, "of all running containers of a pod, at one instant")
	durationVarP(cmd.Flags(), &timeout, "timeout", "t", 2*time.Minute, "how long containers may stand still")
	cmd.Flags().StringToStringVar(&options, "option", nil, "`NAME=true` for a pod: tcp-established, file-locks, ext-unix-sk")
	return cmd
}

func checkpointContainer(ctx context.Context, c *client.Client, ref, path string, timeout time.Duration) error {
	ctr, err := c.Container(ctx, ref)
	if err != nil {
		return err
	}
	_, err = c.Runtime.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{
		ContainerId: ctr.Id, Location: path, Timeout: int64(timeout.Round(time.Second) / time.Second),
	})
	if err != nil {
		return fmt.Errorf("checkpoint container %s: %w", client.Short(ctr.Id), err)
	}
	return nil
}

func checkpointPod(ctx context.Context, c *client.Client, ref, path string, options map[string]string) error {
	pod, err := c.Pod(ctx, ref)
	if err != nil {
		return err
	}
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		PodSandboxId: pod.Id, State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return fmt.Errorf("list containers of pod: %w", err)
	}
	req := &runtimeapi.CheckpointPodRequest{PodSandboxId: pod.Id, OutputPath: path, Options: options}
	for _, ctr := range list.Containers {
		req.ContainerIds = append(req.ContainerIds, ctr.Id)
	}
	if len(req.ContainerIds) == 0 {
		return fmt.Errorf("pod %s has no running container", client.Short(pod.Id))
	}
	if _, err := c.Runtime.CheckpointPod(ctx, req); err != nil {
		return fmt.Errorf("checkpoint pod %s: %w", client.Short(pod.Id), err)
	}
	return nil
}
