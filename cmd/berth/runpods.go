package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

// What marks pods and containers made by `berth run`.
const (
	labelRun        = "io.berth.run"
	annotationStdin = "io.berth.run/stdin"
	annotationTTY   = "io.berth.run/tty"

	runNamespace      = "berth"
	defaultRunLogRoot = "/var/log/berth"
	runLogFile        = "container.log"
)

func isRun(labels map[string]string) bool { return labels[labelRun] == "true" }

func runLogDirectory(root string, m *runtimeapi.PodSandboxMetadata) string {
	return filepath.Join(root, m.Name+"_"+m.Uid)
}

// runLogDirectories finds the log folders that `berth run` made for a pod; for
// other pods there are none. The runtime's word is taken for where a log is, and
// a folder counts only if it has the name that run gives it: labels are the
// user's, and removing what they point to would be a way to remove anything.
func runLogDirectories(ctx context.Context, c *client.Client, podID string) ([]string, error) {
	pods, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: podID}})
	if err != nil {
		return nil, fmt.Errorf("look up pod %s: %w", client.Short(podID), err)
	}
	if len(pods.Items) != 1 || !isRun(pods.Items[0].Labels) {
		return nil, nil
	}
	name := filepath.Base(runLogDirectory("", pods.Items[0].Metadata))
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: podID}})
	if err != nil {
		return nil, fmt.Errorf("list containers of pod %s: %w", client.Short(podID), err)
	}
	var dirs []string
	for _, ctr := range containers.Containers {
		resp, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: ctr.Id})
		if err != nil {
			continue // removed meanwhile
		}
		if dir := filepath.Dir(resp.Status.GetLogPath()); filepath.Base(dir) == name {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// removeLogDirectory removes a folder with the logs in it, rotated ones too. A
// folder with anything else in it stays.
func removeLogDirectory(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove logs: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), runLogFile) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove logs: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove logs: %w", err)
	}
	return nil
}
