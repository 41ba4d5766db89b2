package kubelettest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/hack/testnode"
)

// leftovers lists all that pods leave when they are not wholly removed: sandboxes,
// containers, mounts, cgroups, veths, addresses and logs. It is empty when no pod runs.
func leftovers(ctx context.Context, node *testnode.Node, k *kubelet) ([]string, error) {
	var found []string
	sandboxes, err := node.Runtime().ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes.Items {
		found = append(found, "sandbox "+s.Id)
	}
	containers, err := node.Runtime().ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range containers.Containers {
		found = append(found, "container "+c.Id)
	}
	mounts, err := node.Mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m != k.root() { // which the kubelet mounts on itself, to share it
			found = append(found, "mount "+m)
		}
	}
	for _, list := range []func() ([]string, error){
		func() ([]string, error) { return podCgroups(k.cgroup) },
		func() ([]string, error) { return ports(node.Bridge) },
		func() ([]string, error) { return addresses(node.IPAMDir()) },
		func() ([]string, error) { return logDirs(k.podLogs()) },
	} {
		items, err := list()
		if err != nil {
			return nil, err
		}
		found = append(found, items...)
	}
	return found, nil
}

func prefixed(prefix string, items []string) []string {
	for i := range items {
		items[i] = prefix + items[i]
	}
	return items
}

// cgroupRoots are the hierarchies that are mounted: one with cgroup v2, many with v1.
func cgroupRoots() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}, nil
	}
	return filepath.Glob(root + "/*")
}

// podCgroups are the cgroups of pods and containers below the kubelet's; those of the
// quality-of-service classes stay as long as the kubelet.
func podCgroups(parent string) ([]string, error) {
	roots, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(root, parent), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "pod") {
				found = append(found, "cgroup "+path)
				return fs.SkipDir
			}
			return nil // what is removed while we walk is no leftover
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// ports are the interfaces on the bridge: one veth for each pod that has a network.
func ports(bridge string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join("/sys/class/net", bridge, "brif", "*"))
	if err != nil {
		return nil, err
	}
	return prefixed("interface ", names), nil
}

func addresses(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		// host-local also keeps its lock and the last address it gave out.
		if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip") {
			found = append(found, "address "+e.Name())
		}
	}
	return found, nil
}

func logDirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the pod logs: %w", err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, "log directory "+e.Name())
	}
	return found, nil
}
