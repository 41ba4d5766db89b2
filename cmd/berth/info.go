package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

func (a *app) infoCommand() *cobra.Command {
	var format output.Format
	cmd := &cobra.Command{
		Use:               "info",
		Short:             "Show the state of the runtime and of the node as it sees it",
		Args:              noArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, c *client.Client, _ []string) error {
			n, err := readNode(ctx, c)
			if err != nil {
				return err
			}
			if format == output.Table {
				return output.Pairs(a.stdout, n.pairs())
			}
			data, err := n.data()
			if err != nil {
				return err
			}
			return output.Data(a.stdout, format, data)
		}),
	}
	outputFlag(cmd, &format, output.Table)
	return cmd
}

// nodeInfo is what the runtime says of itself.
type nodeInfo struct {
	version    *runtimeapi.VersionResponse
	status     *runtimeapi.StatusResponse
	config     *runtimeapi.RuntimeConfigResponse // nil where it is not offered
	fs         *runtimeapi.ImageFsInfoResponse
	pods       int
	ready      int
	containers int
	running    int
	images     int
}

func readNode(ctx context.Context, c *client.Client) (*nodeInfo, error) {
	var n nodeInfo
	var err error
	if n.version, err = c.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return nil, fmt.Errorf("read version: %w", err)
	}
	if n.status, err = c.Runtime.Status(ctx, &runtimeapi.StatusRequest{Verbose: true}); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	n.config, err = c.Runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil && client.Code(err) != codes.Unimplemented {
		return nil, fmt.Errorf("read runtime configuration: %w", err)
	}
	if n.fs, err = c.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err != nil {
		return nil, fmt.Errorf("read file system use: %w", err)
	}
	return &n, n.count(ctx, c)
}

func (n *nodeInfo) count(ctx context.Context, c *client.Client) error {
	pods, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	images, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	n.pods, n.containers, n.images = len(pods.Items), len(containers.Containers), len(images.Images)
	for _, p := range pods.Items {
		if isReady(p) {
			n.ready++
		}
	}
	for _, ctr := range containers.Containers {
		if ctr.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			n.running++
		}
	}
	return nil
}

func (n *nodeInfo) pairs() [][2]string {
	pairs := [][2]string{{"Runtime", n.version.RuntimeName + " " + n.version.RuntimeVersion}, {"CRI", n.version.RuntimeApiVersion}}
	for _, cond := range n.status.GetStatus().GetConditions() {
		value := "yes"
		if !cond.Status {
			value = "no"
		}
		if about := strings.TrimSpace(cond.Reason + " " + cond.Message); about != "" {
			value += " (" + about + ")"
		}
		pairs = append(pairs, [2]string{cond.Type, value})
	}
	if driver := n.config.GetLinux(); driver != nil {
		pairs = append(pairs, [2]string{"Cgroup driver", strings.ToLower(driver.CgroupDriver.String())})
	}
	pairs = append(pairs, n.handlerPairs()...)
	pairs = append(pairs,
		[2]string{"Pods", fmt.Sprintf("%d (%d ready)", n.pods, n.ready)},
		[2]string{"Containers", fmt.Sprintf("%d (%d running)", n.containers, n.running)},
		[2]string{"Images", fmt.Sprint(n.images)})
	pairs = append(pairs, usagePairs("Image storage", n.fs.ImageFilesystems)...)
	return append(pairs, usagePairs("Container storage", n.fs.ContainerFilesystems)...)
}

// handlerPairs are the runtime handlers. What they run, and what is wrong with it, is in the
// verbose part of Berth's answer; other runtimes have none.
func (n *nodeInfo) handlerPairs() [][2]string {
	var about []struct{ Name, Path, Version, Error string }
	_ = json.Unmarshal([]byte(n.status.Info["handlers"]), &about)
	var pairs [][2]string
	for _, h := range n.status.RuntimeHandlers {
		name := h.Name
		if name == "" {
			name = "(default)"
		}
		value := fmt.Sprintf("user namespaces: %t, recursive read-only mounts: %t",
			h.GetFeatures().GetUserNamespaces(), h.GetFeatures().GetRecursiveReadOnlyMounts())
		for _, a := range about {
			switch {
			case a.Name != h.Name || a.Path == "":
			case a.Error != "":
				value = a.Path + " cannot be used: " + a.Error
			default:
				value = a.Path + " (" + a.Version + "), " + value
			}
		}
		pairs = append(pairs, [2]string{"Handler " + name, value})
	}
	return pairs
}

func usagePairs(what string, list []*runtimeapi.FilesystemUsage) [][2]string {
	var pairs [][2]string
	for _, u := range list {
		pairs = append(pairs, [2]string{what, fmt.Sprintf("%s in %s", bytesOf(u.UsedBytes), u.GetFsId().GetMountpoint())})
	}
	return pairs
}

// data is the whole answers; the status and its info stand where crictl info
// has them.
func (n *nodeInfo) data() (map[string]any, error) {
	raw, err := output.Proto(n.status)
	if err != nil {
		return nil, err
	}
	data := map[string]any{}
	if err := json.Unmarshal(raw, &data); err != nil {
		return nil, fmt.Errorf("render status: %w", err)
	}
	delete(data, "info")
	for key, value := range output.Info(n.status.Info) {
		data[key] = value
	}
	for key, m := range map[string]proto.Message{"version": n.version, "runtimeConfig": n.config, "filesystems": n.fs} {
		raw, err := output.Proto(m)
		if err != nil {
			return nil, err
		}
		data[key] = raw
	}
	return data, nil
}
