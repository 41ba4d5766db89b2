package main

import (
	"context"
	"path/filepath"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berthd/internal/pidlock"
	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice"
)

// foreignNames are those in the root directory that are not the image service's.
var foreignNames = map[string]bool{
	"sandboxes": true, "containers": true, "specs": true, "checkpoints": true, "cni": true, pidlock.FileName: true, "places.json": true, "berth-storage": true,
}

// containers lists what has a log.
type containers interface {
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error)
}

// storage answers the service berth.v1.Storage.
type storage struct {
	images     *imageservice.Service
	containers containers
	root       string
}

var _ berthapi.StorageServer = (*storage)(nil)

// DiskUsage implements berthapi.StorageServer.
func (s *storage) DiskUsage(ctx context.Context, _ berthapi.DiskUsageRequest) (berthapi.DiskUsage, error) {
	found, err := s.images.DiskUsage(ctx, foreignNames)
	if err != nil {
		return berthapi.DiskUsage{}, err
	}
	usage := berthapi.DiskUsage{At: found.At, Items: []berthapi.DiskItem{}}
	for _, i := range found.Items {
		usage.Items = append(usage.Items, berthapi.DiskItem{
			Kind: i.Kind, ID: i.ID, Images: i.Images, Shared: i.Shared, Bytes: i.Bytes, Inodes: i.Inodes, At: i.Measured,
		})
	}
	logs, err := s.logs(ctx)
	if err != nil {
		return berthapi.DiskUsage{}, err
	}
	usage.Items = append(usage.Items, logs...)
	usage.Filesystems = filesystems(append(s.images.Roots(), s.root))
	return usage, nil
}

// logs are the log files of the containers, with those that the kubelet has rotated.
// They lie where the kubelet says, which is not below the root directory.
func (s *storage) logs(ctx context.Context) ([]berthapi.DiskItem, error) {
	list, err := s.containers.ListContainers(ctx, nil)
	if err != nil {
		return nil, err
	}
	var items []berthapi.DiskItem
	for _, c := range list {
		status, err := s.containers.ContainerStatus(ctx, c.GetId(), false)
		path := status.GetStatus().GetLogPath()
		if err != nil || path == "" {
			continue // removed meanwhile, or without a log
		}
		item := berthapi.DiskItem{Kind: "log", ID: path, Outside: true}
		files, err := filepath.Glob(path + "*")
		if err != nil {
			files = []string{path} // the path has the form of a pattern
		}
		for _, file := range files {
			var st unix.Stat_t
			if unix.Lstat(file, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				item.Bytes += uint64(st.Blocks) * 512
				item.Inodes++
			}
		}
		if item.Inodes > 0 {
			items = append(items, item)
		}
	}
	return items, nil
}

// filesystems are those of the directories, each once.
func filesystems(dirs []string) []berthapi.Filesystem {
	var list []berthapi.Filesystem
	index := map[uint64]int{}
	seen := map[string]bool{}
	for _, dir := range dirs {
		var st unix.Stat_t
		var fs unix.Statfs_t
		if seen[dir] || unix.Stat(dir, &st) != nil || unix.Statfs(dir, &fs) != nil {
			continue
		}
		seen[dir] = true
		if i, ok := index[st.Dev]; ok {
			list[i].Directories = append(list[i].Directories, dir)
			continue
		}
		index[st.Dev] = len(list)
		unit := uint64(fs.Frsize)
		list = append(list, berthapi.Filesystem{Directories: []string{dir}, Size: fs.Blocks * unit, Available: fs.Bavail * unit})
	}
	return list
}

// Check implements berthapi.StorageServer.
func (s *storage) Check(ctx context.Context, req berthapi.CheckRequest, send func(berthapi.Finding) error) error {
	o := imageservice.CheckOptions{Images: req.Images, Repair: req.Repair, Quick: req.Quick}
	return s.images.Check(ctx, o, func(f imageservice.Finding) error {
		return send(berthapi.Finding{
			Kind: f.Kind, ID: f.ID, Images: f.Images, State: f.State, Detail: f.Detail, Problems: f.Problems, Bytes: f.Bytes,
		})
	})
}
