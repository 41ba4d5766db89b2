package client

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// IDWidth is how much of an ID a table shows.
const IDWidth = 13

// Container finds the container that ref names: its ID, its name, POD/NAME, or
// the beginning of its ID that no other has. Of several attempts of one
// container in one pod the newest is meant. It returns *NotFoundError or
// *AmbiguousError when there is not exactly one.
func (c *Client) Container(ctx context.Context, ref string) (*runtimeapi.Container, error) {
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pods, err := c.podsByID(ctx)
	if err != nil {
		return nil, err
	}
	return pickContainer(ref, list.Containers, pods)
}

func (c *Client) podsByID(ctx context.Context) (map[string]*runtimeapi.PodSandbox, error) {
	list, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	pods := make(map[string]*runtimeapi.PodSandbox, len(list.Items))
	for _, p := range list.Items {
		pods[p.Id] = p
	}
	return pods, nil
}

func pickContainer(ref string, all []*runtimeapi.Container, pods map[string]*runtimeapi.PodSandbox) (*runtimeapi.Container, error) {
	var named, prefixed []*runtimeapi.Container
	for _, ctr := range all {
		name, pod := ctr.GetMetadata().GetName(), pods[ctr.PodSandboxId].GetMetadata().GetName()
		switch {
		case ctr.Id == ref:
			return ctr, nil
		case name == ref || pod+"/"+name == ref:
			named = append(named, ctr)
		case ref != "" && strings.HasPrefix(ctr.Id, ref):
			prefixed = append(prefixed, ctr)
		}
	}
	found := newestAttempts(named, pods)
	if len(found) == 0 {
		found = prefixed
	}
	switch len(found) {
	case 0:
		return nil, &NotFoundError{Kind: "container", Ref: ref}
	case 1:
		return found[0], nil
	}
	names := make([]string, 0, len(found))
	for _, ctr := range found {
		names = append(names, fmt.Sprintf("%s  %s/%s", Short(ctr.Id), pods[ctr.PodSandboxId].GetMetadata().GetName(), ctr.GetMetadata().GetName()))
	}
	sort.Strings(names)
	return nil, &AmbiguousError{Kind: "container", Ref: ref, Candidates: names}
}

// newestAttempts keeps the last container of each name in each pod, where a pod
// is one of the cluster's, whatever number of sandboxes it had.
func newestAttempts(list []*runtimeapi.Container, pods map[string]*runtimeapi.PodSandbox) []*runtimeapi.Container {
	newest := map[string]*runtimeapi.Container{}
	for _, ctr := range list {
		m := pods[ctr.PodSandboxId].GetMetadata()
		key := strings.Join([]string{m.GetNamespace(), m.GetName(), m.GetUid(), ctr.GetMetadata().GetName()}, "\x00")
		if m == nil {
			key = ctr.Id
		}
		if old := newest[key]; old == nil || old.CreatedAt < ctr.CreatedAt {
			newest[key] = ctr
		}
	}
	kept := make([]*runtimeapi.Container, 0, len(newest))
	for _, ctr := range list {
		for _, n := range newest {
			if n == ctr {
				kept = append(kept, ctr)
			}
		}
	}
	return kept
}

// Pod finds the pod sandbox that ref names: its ID, its name, NAMESPACE/NAME,
// or the beginning of its ID that no other has. Of several sandboxes of one pod
// the newest is meant.
func (c *Client) Pod(ctx context.Context, ref string) (*runtimeapi.PodSandbox, error) {
	list, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	return pickPod(ref, list.Items)
}

func pickPod(ref string, all []*runtimeapi.PodSandbox) (*runtimeapi.PodSandbox, error) {
	named, prefixed := map[string]*runtimeapi.PodSandbox{}, map[string]*runtimeapi.PodSandbox{}
	for _, p := range all {
		m := p.GetMetadata()
		switch {
		case p.Id == ref:
			return p, nil
		case m.GetName() == ref || m.GetNamespace()+"/"+m.GetName() == ref:
			key := m.GetNamespace() + "\x00" + m.GetName() + "\x00" + m.GetUid()
			if old := named[key]; old == nil || old.CreatedAt < p.CreatedAt {
				named[key] = p
			}
		case ref != "" && strings.HasPrefix(p.Id, ref):
			prefixed[p.Id] = p
		}
	}
	found := named
	if len(found) == 0 {
		found = prefixed
	}
	var names []string
	var last *runtimeapi.PodSandbox
	for _, p := range found {
		last = p
		names = append(names, fmt.Sprintf("%s  %s/%s", Short(p.Id), p.GetMetadata().GetNamespace(), p.GetMetadata().GetName()))
	}
	switch len(names) {
	case 0:
		return nil, &NotFoundError{Kind: "pod", Ref: ref}
	case 1:
		return last, nil
	}
	sort.Strings(names)
	return nil, &AmbiguousError{Kind: "pod", Ref: ref, Candidates: names}
}

// ContainerOrPod finds a container, or when no container answers to ref, a pod;
// the other one is nil.
func (c *Client) ContainerOrPod(ctx context.Context, ref string) (*runtimeapi.Container, *runtimeapi.PodSandbox, error) {
	ctr, err := c.Container(ctx, ref)
	var missing *NotFoundError
	if !errors.As(err, &missing) {
		return ctr, nil, err
	}
	pod, err := c.Pod(ctx, ref)
	if errors.As(err, &missing) {
		return nil, nil, &NotFoundError{Kind: "container or pod", Ref: ref}
	}
	return nil, pod, err
}

// Image finds the image that ref names: a tag, a digest, its ID or the beginning
// of its ID.
func (c *Client) Image(ctx context.Context, ref string) (*runtimeapi.Image, error) {
	resp, err := c.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return nil, fmt.Errorf("look up image %q: %w", ref, err)
	}
	if resp.Image == nil {
		return nil, &NotFoundError{Kind: "image", Ref: ref}
	}
	return resp.Image, nil
}

// Short returns as much of an ID as a table shows.
func Short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > IDWidth {
		return id[:IDWidth]
	}
	return id
}
