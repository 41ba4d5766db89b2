package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

// A person waits for completion with a finger on the key.
const completionTimeout = time.Second

// candidates lists what may stand as an argument.
type candidates func(ctx context.Context, c *client.Client) ([]cobra.Completion, error)

// complete makes candidates into a completion for the first max arguments; 0 is
// any number of them. Where the socket does not answer there is nothing to
// offer.
func (a *app) complete(max int, list candidates) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if max > 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		c, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := list(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) completeContainers(max int) cobra.CompletionFunc {
	return a.complete(max, containerCandidates)
}

func (a *app) completePods(max int) cobra.CompletionFunc { return a.complete(max, podCandidates) }

func (a *app) completeImages(max int) cobra.CompletionFunc { return a.complete(max, imageCandidates) }

// completeContainersAndPods is for the commands that take both.
func (a *app) completeContainersAndPods(max int) cobra.CompletionFunc {
	return a.complete(max, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		containers, err := containerCandidates(ctx, c)
		if err != nil {
			return nil, err
		}
		pods, err := podCandidates(ctx, c)
		return append(containers, pods...), err
	})
}

// containerCandidates offers names, qualified by their pod where two pods have
// the same.
func containerCandidates(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	pods, err := podMetadata(ctx, c)
	if err != nil {
		return nil, err
	}
	owners := map[string]map[string]bool{}
	for _, ctr := range list.Containers {
		name := ctr.GetMetadata().GetName()
		if owners[name] == nil {
			owners[name] = map[string]bool{}
		}
		owners[name][pods[ctr.PodSandboxId].GetName()] = true
	}
	var found []cobra.Completion
	for _, ctr := range list.Containers {
		name, pod := ctr.GetMetadata().GetName(), pods[ctr.PodSandboxId].GetName()
		if len(owners[name]) > 1 {
			name = pod + "/" + name
		}
		found = append(found, cobra.CompletionWithDesc(name, containerStateName(ctr.State)+" in pod "+pod))
	}
	return unique(found), nil
}

func podCandidates(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	var found []cobra.Completion
	for _, p := range list.Items {
		found = append(found, cobra.CompletionWithDesc(p.GetMetadata().GetName(), podStateName(p.State)+" pod in "+p.GetMetadata().GetNamespace()))
	}
	return unique(found), nil
}

func imageCandidates(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	var found []cobra.Completion
	for _, image := range list.Images {
		found = append(found, image.RepoTags...)
		if len(image.RepoTags) == 0 {
			found = append(found, client.Short(image.Id))
		}
	}
	return unique(found), nil
}

func unique(list []cobra.Completion) []cobra.Completion {
	slices.Sort(list)
	return slices.Compact(list)
}
