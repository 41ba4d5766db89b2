package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

func containerStates() map[string]runtimeapi.ContainerState {
	return map[string]runtimeapi.ContainerState{
		"created": runtimeapi.ContainerState_CONTAINER_CREATED,
		"running": runtimeapi.ContainerState_CONTAINER_RUNNING,
		"exited":  runtimeapi.ContainerState_CONTAINER_EXITED,
		"unknown": runtimeapi.ContainerState_CONTAINER_UNKNOWN,
	}
}

func containerStateName(s runtimeapi.ContainerState) string {
	for name, state := range containerStates() {
		if state == s {
			return strings.ToUpper(name[:1]) + name[1:]
		}
	}
	return s.String()
}

type psFlags struct {
	listFlags
	all        bool
	pod, image string
}

func (a *app) psCommand() *cobra.Command {
	var flags psFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:               "ps",
		Short:             "List containers",
		Args:              noArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, c *client.Client, _ []string) error {
			containers, err := listContainers(ctx, c, &flags)
			if err != nil {
				return err
			}
			return a.printContainers(ctx, c, containers, &flags, format)
		}),
	}
	flags.add(cmd, "container", stateNames(containerStates()))
	cmd.Flags().BoolVarP(&flags.all, "all", "a", false, "also containers that do not run")
	cmd.Flags().StringVarP(&flags.pod, "pod", "p", "", "only containers of this pod")
	cmd.Flags().StringVar(&flags.image, "image", "", "only containers of this image")
	_ = cmd.RegisterFlagCompletionFunc("pod", a.completePods(1))
	_ = cmd.RegisterFlagCompletionFunc("image", a.completeImages(1))
	outputFlag(cmd, &format, output.Table)
	return cmd
}

func containerFilter(ctx context.Context, c *client.Client, flags *psFlags, newest int) (*runtimeapi.ContainerFilter, error) {
	filter := &runtimeapi.ContainerFilter{Id: flags.id}
	var err error
	if filter.LabelSelector, err = flags.selector(); err != nil {
		return nil, err
	}
	switch {
	case flags.state != "":
		state, err := parseState(flags.state, containerStates())
		if err != nil {
			return nil, err
		}
		filter.State = &runtimeapi.ContainerStateValue{State: state}
	case !flags.all && newest == 0:
		filter.State = &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	}
	if flags.pod != "" {
		pod, err := c.Pod(ctx, flags.pod)
		if err != nil {
			return nil, err
		}
		filter.PodSandboxId = pod.Id
	}
	return filter, nil
}

// listContainers returns the containers that the flags ask for, newest first.
func listContainers(ctx context.Context, c *client.Client, flags *psFlags) ([]*runtimeapi.Container, error) {
	newest, err := flags.newest()
	if err != nil {
		return nil, err
	}
	filter, err := containerFilter(ctx, c, flags, newest)
	if err != nil {
		return nil, err
	}
	nameMatches, err := matcher("name", flags.name)
	if err != nil {
		return nil, err
	}
	imageMatches := func(*runtimeapi.Container) bool { return true }
	if flags.image != "" {
		image, err := c.Image(ctx, flags.image)
		if err != nil {
			return nil, err
		}
		imageMatches = func(ctr *runtimeapi.Container) bool { return usesImage(ctr, image) }
	}
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	containers := slices.DeleteFunc(list.Containers, func(ctr *runtimeapi.Container) bool {
		return !nameMatches(ctr.GetMetadata().GetName()) || !imageMatches(ctr)
	})
	slices.SortStableFunc(containers, func(x, y *runtimeapi.Container) int { return cmp.Compare(y.CreatedAt, x.CreatedAt) })
	return firstN(containers, newest), nil
}

// usesImage compares by ID and by every name: runtimes put different ones of
// them into a container's image fields.
func usesImage(ctr *runtimeapi.Container, image *runtimeapi.Image) bool {
	names := slices.Concat([]string{image.Id}, image.RepoTags, image.RepoDigests)
	for _, used := range []string{ctr.ImageId, ctr.ImageRef, ctr.GetImage().GetImage()} {
		if used != "" && slices.Contains(names, used) {
			return true
		}
	}
	return false
}

func (a *app) printContainers(ctx context.Context, c *client.Client, containers []*runtimeapi.Container, flags *psFlags, format output.Format) error {
	if flags.quiet {
		for _, ctr := range containers {
			fmt.Fprintln(a.stdout, ctr.Id)
		}
		return nil
	}
	if format != output.Table {
		return output.Data(a.stdout, format, &runtimeapi.ListContainersResponse{Containers: containers})
	}
	pods, err := podMetadata(ctx, c)
	if err != nil {
		return err
	}
	rows := make([][]string, 0, len(containers))
	for _, ctr := range containers {
		pod := pods[ctr.PodSandboxId]
		rows = append(rows, []string{
			shortID(ctr.Id, flags.noTrunc), imageName(ctr, flags.noTrunc), output.Ago(a.now(), time.Unix(0, ctr.CreatedAt)),
			containerStateName(ctr.State), ctr.GetMetadata().GetName(), strconv.Itoa(int(ctr.GetMetadata().GetAttempt())),
			shortID(ctr.PodSandboxId, flags.noTrunc), pod.GetName(), pod.GetNamespace(),
		})
	}
	return output.Rows(a.stdout, []string{"CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID", "POD", "NAMESPACE"}, rows)
}

func podMetadata(ctx context.Context, c *client.Client) (map[string]*runtimeapi.PodSandboxMetadata, error) {
	list, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	pods := make(map[string]*runtimeapi.PodSandboxMetadata, len(list.Items))
	for _, p := range list.Items {
		pods[p.Id] = p.Metadata
	}
	return pods, nil
}

// imageName is the name the container was asked for with; an ID is shortened.
func imageName(ctr *runtimeapi.Container, whole bool) string {
	name := ctr.GetImage().GetUserSpecifiedImage()
	if name == "" {
		name = ctr.GetImage().GetImage()
	}
	if strings.HasPrefix(name, "sha256:") || isHexID(name) {
		return shortID(name, whole)
	}
	return name
}

func isHexID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
