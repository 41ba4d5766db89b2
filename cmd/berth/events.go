package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

func (a *app) eventsCommand() *cobra.Command {
	var format output.Format
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happens to containers, as it happens",
		Long: `Show what happens to containers until Ctrl-C. With -o json each event is one line,
with -o yaml one document.`,
		Args:              noArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, c *client.Client, _ []string) error {
			stream, err := c.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
			if err != nil {
				return fmt.Errorf("follow events: %w", err)
			}
			for {
				event, err := stream.Recv()
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return fmt.Errorf("follow events: %w", err)
				}
				if err := a.printEvent(event, format); err != nil {
					return err
				}
			}
		}),
	}
	outputFlag(cmd, &format, output.Table)
	return cmd
}

func (a *app) printEvent(e *runtimeapi.ContainerEventResponse, format output.Format) error {
	switch format {
	case output.JSON:
		return output.Line(a.stdout, e)
	case output.YAML:
		raw, err := output.Proto(e)
		if err != nil {
			return err
		}
		doc, err := yaml.JSONToYAML(raw)
		if err != nil {
			return fmt.Errorf("render event: %w", err)
		}
		_, err = fmt.Fprintf(a.stdout, "---\n%s", doc)
		return err
	}
	pod := e.GetPodSandboxStatus().GetMetadata()
	line := fmt.Sprintf("%s  %-8s %s", time.Unix(0, e.CreatedAt).Format(time.RFC3339Nano), eventName(e.ContainerEventType), client.Short(e.ContainerId))
	if pod != nil {
		line += fmt.Sprintf("  pod=%s/%s", pod.Namespace, pod.Name)
	}
	for _, s := range e.ContainersStatuses {
		if s.Id != e.ContainerId {
			continue
		}
		line += "  name=" + s.GetMetadata().GetName()
		if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
			line += fmt.Sprintf("  exit=%d", s.ExitCode)
			if s.Reason != "" {
				line += "  reason=" + s.Reason
			}
		}
	}
	_, err := fmt.Fprintln(a.stdout, line)
	return err
}

func eventName(t runtimeapi.ContainerEventType) string {
	name := strings.TrimSuffix(strings.TrimPrefix(t.String(), "CONTAINER_"), "_EVENT")
	return strings.ToLower(name)
}
