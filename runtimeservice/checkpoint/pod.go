package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PodFile is the file that describes the checkpoint of a pod, and the last to be written.
const PodFile = "pod.dump"

// ContainersDir has a directory for each container, of its number.
const ContainersDir = "containers"

// podVersion is that of the form of a pod's checkpoint.
const podVersion = 1

// Pod is what the checkpoint of a pod says of it.
type Pod struct {
	Version int `json:"version"`
	// Runtime is the handler that the pod was run by.
	Runtime string `json:"runtime"`
	// Containers are the names of the containers, each in the directory of its index.
	Containers []string `json:"containers"`
}

// Dir is the directory of the i-th container below that of the pod's checkpoint.
func Dir(pod string, i int) string {
	return filepath.Join(pod, ContainersDir, fmt.Sprint(i))
}

// WritePod writes what describes a pod.
func WritePod(dir string, p Pod) error {
	p.Version = podVersion
	if err := writeJSON(filepath.Join(dir, PodFile), p); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// ReadPod reads what a copy of a pod's checkpoint says. One of another form, and one with a
// container's name twice, is ErrInvalidArgument.
func ReadPod(dir string) (*Pod, error) {
	var p Pod
	if err := readJSON(dir, PodFile, &p); err != nil {
		return nil, err
	}
	if p.Version != podVersion {
		return nil, malformed(PodFile, fmt.Sprintf("its version is %d, not %d", p.Version, podVersion))
	}
	seen := map[string]bool{}
	for _, name := range p.Containers {
		if name == "" || seen[name] {
			return nil, malformed(PodFile, "the names of its containers are not unique")
		}
		seen[name] = true
	}
	return &p, nil
}

// Sync has all of a checkpoint on the disk when it returns.
func Sync(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("sync checkpoint: %w", err)
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ELOOP) {
			return nil // CRIU leaves links to the images of others
		}
		if err == nil {
			err = errors.Join(f.Sync(), f.Close())
		}
		if err != nil {
			return fmt.Errorf("sync checkpoint: %w", err)
		}
		return nil
	})
}
