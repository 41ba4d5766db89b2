// Package checkpoint is the form of checkpoints on disk: that of a container, an archive
// or a directory whose names other tools know (CRI-O, containerd, checkpointctl), and that
// of a pod, a directory of Berth's own form with one of those for each container.
//
//	config.dump      what the container was: Config, as JSON
//	spec.dump        its OCI specification
//	status.dump      its CRI status
//	checkpoint/      CRIU's images
//	rootfs-diff.tar  what it changed in its root file system, in the form of a layer
//
// A checkpoint can come from anywhere. What is read of one has been copied first, by
// Unpack or Copy, into a directory that nobody else writes to: regular files and
// directories alone. What it says of the container is compared with what a request asks
// for and is never followed: no mount, device, annotation or name of it is used.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Names of the files of a container's checkpoint.
const (
	ConfigFile = "config.dump"
	SpecFile   = "spec.dump"
	StatusFile = "status.dump"
	ImagesDir  = "checkpoint"
	RootfsFile = "rootfs-diff.tar"
	// deletedFile is what CRI-O lists removed files in, which Berth has in the archive of
	// changes.
	deletedFile = "deleted.files"
	// descriptorsFile is libcontainer's, among the images: what the standard streams were.
	descriptorsFile = "descriptors.json"
)

// Config is config.dump.
type Config struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// RootfsImage is the image's ID, RootfsImageRef its digest in a registry or its ID, and
	// RootfsImageName what it was called.
	RootfsImage     string    `json:"rootfsImage,omitempty"`
	RootfsImageRef  string    `json:"rootfsImageRef,omitempty"`
	RootfsImageName string    `json:"rootfsImageName,omitempty"`
	Runtime         string    `json:"runtime,omitempty"`
	CreatedTime     time.Time `json:"createdTime"`
	CheckpointedAt  time.Time `json:"checkpointedTime"`
	RestoredAt      time.Time `json:"restoredTime"`
	Restored        bool      `json:"restored"`
}

// Container is a container's checkpoint that was read.
type Container struct {
	Config Config
	Spec   specs.Spec
}

// Write writes the files of a container's checkpoint that describe it.
func Write(dir string, c *Container, status any) error {
	for name, value := range map[string]any{ConfigFile: c.Config, SpecFile: c.Spec, StatusFile: status} {
		if err := writeJSON(filepath.Join(dir, name), value); err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
	}
	return nil
}

// Read reads the checkpoint in a directory that Unpack or Copy has filled. A malformed one
// is ErrInvalidArgument.
func Read(dir string) (*Container, error) {
	var c Container
	if err := readJSON(dir, ConfigFile, &c.Config); err != nil {
		return nil, err
	}
	if err := readJSON(dir, SpecFile, &c.Spec); err != nil {
		return nil, err
	}
	if c.Spec.Process == nil || c.Spec.Linux == nil || c.Spec.Root == nil {
		return nil, malformed(SpecFile, "it lacks the process, the root or what is Linux's")
	}
	if info, err := os.Stat(filepath.Join(dir, ImagesDir, "inventory.img")); err != nil || !info.Mode().IsRegular() {
		return nil, malformed(ImagesDir, "it is not one of CRIU's images")
	}
	if info, err := os.Stat(filepath.Join(dir, deletedFile)); err == nil && info.Size() > emptyList {
		return nil, fmt.Errorf("the checkpoint lists removed files beside the archive of changes (%s), as CRI-O does; that is not supported: %w", deletedFile, errdefs.ErrFailedPrecondition)
	}
	return &c, checkDescriptors(dir)
}

// emptyList is the size of a JSON list without elements, and a line's end.
const emptyList = int64(len("null\n"))

func malformed(file, problem string) error {
	return fmt.Errorf("malformed checkpoint: %s: %s: %w", file, problem, errdefs.ErrInvalidArgument)
}

// standardStreams is how many streams a process has that are restored as others'.
const standardStreams = 3

// checkDescriptors sees to it that no descriptor but the standard streams is handed to
// what is restored: libcontainer goes by this list.
func checkDescriptors(dir string) error {
	name := filepath.Join(ImagesDir, descriptorsFile)
	var list []string
	err := readJSON(dir, name, &list)
	if errors.Is(err, errMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(list) > standardStreams {
		return malformed(name, "it has more than the standard streams")
	}
	return nil
}

// ImageID is the digest by which the image of a checkpoint can be found; ErrInvalidArgument
// if it has only a name. A name may mean another image here.
func (c *Container) ImageID() (string, error) {
	for _, text := range []string{c.Config.RootfsImage, c.Config.RootfsImageRef} {
		if id, err := digest.Parse(text); err == nil {
			return id.String(), nil
		}
		if digestPattern.MatchString(text) {
			return text, nil
		}
	}
	return "", malformed(ConfigFile, "it does not tell the digest of the image")
}

var digestPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}$`)

var errMissing = fmt.Errorf("it is not whole: %w", errdefs.ErrInvalidArgument)

// maxJSON bounds a file that is read whole.
const maxJSON = 8 << 20

func readJSON(dir, name string, value any) error {
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("malformed checkpoint: %s is missing: %w", name, errMissing)
	}
	if err != nil {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	if len(data) > maxJSON {
		return malformed(name, fmt.Sprintf("it has more than %d bytes", maxJSON))
	}
	if err := json.Unmarshal(data, value); err != nil {
		return malformed(name, "it is not the JSON that it should be")
	}
	return nil
}

func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), fileMode)
}
