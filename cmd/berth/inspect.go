package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

// inspection is what inspect shows of one thing, in crictl's form.
type inspection map[string]any

// lookup shows what ref names, or returns *client.NotFoundError.
type lookup func(ctx context.Context, c *client.Client, ref string) (inspection, error)

func lookups() map[string]lookup {
	return map[string]lookup{"container": inspectContainer, "pod": inspectPod, "image": inspectImage}
}

type inspectFlags struct {
	kind, template string
	format         output.Format
}

func (a *app) inspectCommand() *cobra.Command {
	var flags inspectFlags
	cmd := &cobra.Command{
		Use:               "inspect CONTAINER|POD|IMAGE...",
		Short:             "Show all that is known of containers, pods or images",
		Args:              minArgs(1, "containers, pods or images"),
		ValidArgsFunction: a.complete(0, anyCandidates),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			var found []inspection
			for _, ref := range args {
				one, err := inspectOne(ctx, c, flags.kind, ref)
				if err != nil {
					return err
				}
				found = append(found, one)
			}
			return a.printInspections(found, &flags)
		}),
	}
	cmd.Flags().StringVar(&flags.kind, "type", "", "what the names mean: container, pod or image; the first of these that is found if not given")
	cmd.Flags().StringVar(&flags.template, "template", "", "a Go `template` to show each with, like '{{.status.state}}'")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(slices.Sorted(maps.Keys(lookups())), cobra.ShellCompDirectiveNoFileComp))
	outputFlag(cmd, &flags.format, output.JSON)
	return cmd
}

func anyCandidates(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	var all []cobra.Completion
	for _, list := range []candidates{containerCandidates, podCandidates, imageCandidates} {
		found, err := list(ctx, c)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func inspectOne(ctx context.Context, c *client.Client, kind, ref string) (inspection, error) {
	if kind != "" {
		look, ok := lookups()[kind]
		if !ok {
			return nil, fmt.Errorf("--type %q is none of container, pod and image", kind)
		}
		return look(ctx, c, ref)
	}
	for _, look := range []lookup{inspectContainer, inspectPod, inspectImage} {
		found, err := look(ctx, c, ref)
		var missing *client.NotFoundError
		if !errors.As(err, &missing) {
			return found, err
		}
	}
	return nil, &client.NotFoundError{Kind: "container, pod or image", Ref: ref}
}

func inspectContainer(ctx context.Context, c *client.Client, ref string) (inspection, error) {
	ctr, err := c.Container(ctx, ref)
	if err != nil {
		return nil, err
	}
	resp, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: ctr.Id, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("inspect container %q: %w", ref, err)
	}
	return newInspection(resp.Status, resp.Info)
}

func inspectPod(ctx context.Context, c *client.Client, ref string) (inspection, error) {
	pod, err := c.Pod(ctx, ref)
	if err != nil {
		return nil, err
	}
	resp, err := c.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod.Id, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("inspect pod %q: %w", ref, err)
	}
	return newInspection(resp.Status, resp.Info)
}

func inspectImage(ctx context.Context, c *client.Client, ref string) (inspection, error) {
	resp, err := c.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("inspect image %q: %w", ref, err)
	}
	if resp.Image == nil {
		return nil, &client.NotFoundError{Kind: "image", Ref: ref}
	}
	return newInspection(resp.Image, resp.Info)
}

func newInspection(status proto.Message, info map[string]string) (inspection, error) {
	raw, err := output.Proto(status)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("render status: %w", err)
	}
	for _, key := range []string{"createdAt", "startedAt", "finishedAt"} {
		if nanos, ok := fields[key].(string); ok {
			fields[key] = readableTime(nanos)
		}
	}
	one := inspection{"status": fields}
	if info := output.Info(info); info != nil {
		one["info"] = info
	}
	return one, nil
}

// readableTime turns CRI's nanoseconds into RFC 3339; 0 is a time that has not
// come.
func readableTime(nanos string) string {
	n, err := json.Number(nanos).Int64()
	if err != nil || n == 0 {
		return "0001-01-01T00:00:00Z"
	}
	return time.Unix(0, n).UTC().Format(time.RFC3339Nano)
}

func (a *app) printInspections(found []inspection, flags *inspectFlags) error {
	switch {
	case flags.template != "":
		return a.printTemplate(found, flags.template)
	case flags.format == output.Table:
		for _, one := range found {
			if err := output.Pairs(a.stdout, summary(one)); err != nil {
				return err
			}
			if err := printStart(a.stdout, startRecord(one)); err != nil {
				return err
			}
		}
		return nil
	case len(found) == 1:
		return output.Data(a.stdout, flags.format, found[0])
	}
	return output.Data(a.stdout, flags.format, found)
}

func (a *app) printTemplate(found []inspection, text string) error {
	t, err := template.New("template").Parse(text)
	if err != nil {
		return fmt.Errorf("--template: %w", err)
	}
	for _, one := range found {
		// Raw JSON of the info map has to become fields a template can name.
		data, err := json.Marshal(one)
		if err != nil {
			return err
		}
		var plain map[string]any
		if err := json.Unmarshal(data, &plain); err != nil {
			return err
		}
		if err := t.Execute(a.stdout, plain); err != nil {
			return fmt.Errorf("--template: %w", err)
		}
		fmt.Fprintln(a.stdout)
	}
	return nil
}

// summary is the plain fields of the status.
func summary(one inspection) [][2]string {
	fields := one["status"].(map[string]any)
	var pairs [][2]string
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		switch v := fields[key].(type) {
		case string:
			pairs = append(pairs, [2]string{key, v})
		case bool, float64:
			pairs = append(pairs, [2]string{key, fmt.Sprint(v)})
		case []any:
			if list, ok := words(v); ok {
				pairs = append(pairs, [2]string{key, list})
			}
		case map[string]any:
			if name, ok := v["name"].(string); ok {
				pairs = append(pairs, [2]string{"name", name})
			}
		}
	}
	return pairs
}

func words(list []any) (string, bool) {
	var out []string
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return "", false
		}
		out = append(out, s)
	}
	return strings.Join(out, ", "), len(out) > 0
}
