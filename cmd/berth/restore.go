package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

// restoreTime is how long a pod may take; its memory is copied.
const restoreTime = 5 * time.Minute

func (a *app) restoreCommand() *cobra.Command {
	var start bool
	var handler string
	var options map[string]string
	cmd := &cobra.Command{
		Use:   "restore DIRECTORY POD.json CONTAINER.json...",
		Short: "Make a pod of a checkpoint",
		Long: `Make a pod of a checkpoint that ` + "`berth checkpoint --pod`" + ` has written. The files are
the configurations of the pod (PodSandboxConfig) and of each container (ContainerConfig) as JSON.
The containers are created, and go on when they are started. The IDs are written, the pod's first.`,
		Args: minArgs(3, "a directory, a pod's configuration and those of its containers"),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			req, err := restoreRequest(args)
			if err != nil {
				return err
			}
			req.RuntimeHandler, req.Options = handler, options
			ctx, cancel := context.WithTimeout(ctx, restoreTime)
			defer cancel()
			return a.restorePod(ctx, c, req, start)
		}),
	}
	cmd.Flags().BoolVar(&start, "start", false, "start the containers too")
	cmd.Flags().StringVar(&handler, "handler", "", "runtime `handler` that the pod was run by")
	cmd.Flags().StringToStringVar(&options, "option", nil, "`NAME=true`: tcp-established, file-locks, ext-unix-sk")
	return cmd
}

func restoreRequest(args []string) (*runtimeapi.RestorePodRequest, error) {
	path, err := filepath.Abs(args[0])
	if err != nil {
		return nil, err
	}
	req := &runtimeapi.RestorePodRequest{CheckpointPath: path, Config: &runtimeapi.PodSandboxConfig{}}
	if err := readMessage(args[1], req.Config); err != nil {
		return nil, err
	}
	for _, file := range args[2:] {
		config := &runtimeapi.ContainerConfig{}
		if err := readMessage(file, config); err != nil {
			return nil, err
		}
		req.ContainerConfigs = append(req.ContainerConfigs, config)
	}
	return req, nil
}

func readMessage(file string, m proto.Message) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(data, m); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

func (a *app) restorePod(ctx context.Context, c *client.Client, req *runtimeapi.RestorePodRequest, start bool) error {
	resp, err := c.Runtime.RestorePod(ctx, req)
	if err != nil {
		return fmt.Errorf("restore pod: %w", err)
	}
	fmt.Fprintln(a.stdout, resp.PodSandboxId)
	for _, r := range resp.RestoredContainers {
		if start {
			if _, err := c.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
				return fmt.Errorf("start container %q: %w", r.Name, err)
			}
		}
		fmt.Fprintln(a.stdout, r.ContainerId)
	}
	return nil
}
