// Package cdi gives containers devices of vendors by the Container Device
// Interface (CDI 1.1): a file on the node says for each device what of a
// container's specification is edited: environment, device nodes, mounts, hooks.
package cdi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// Injector edits specifications. It is safe for concurrent use.
type Injector struct {
	cache *cdi.Cache
	dirs  []string
	log   *slog.Logger
}

// New makes an Injector that reads specification files from the directories; of
// two files that have the same device the one in the later directory wins.
// Directories need not exist. The files are read again for each container that
// asks for a device: they are few and small, and so a device that a plugin has
// announced this moment is found.
func New(dirs []string, log *slog.Logger) (*Injector, error) {
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs())
	if err != nil {
		return nil, fmt.Errorf("read CDI specifications: %w", err)
	}
	return &Injector{cache: cache, dirs: dirs, log: log}, nil
}

// Devices gives the names of the devices that a container asks for: those of
// CDI_devices, then those of its annotations below cdi.k8s.io/, each once. A name
// that is not of the form vendor/class=device is InvalidArgument.
func Devices(c *runtimeapi.ContainerConfig) ([]string, error) {
	var names []string
	add := func(field, name string) error {
		if !parser.IsQualifiedName(name) {
			return fmt.Errorf("%s: %q is not the name of a CDI device, vendor/class=device: %w", field, name, errdefs.ErrInvalidArgument)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		return nil
	}
	for i, d := range c.GetCDIDevices() {
		if err := add("config.CDI_devices["+strconv.Itoa(i)+"].name", d.GetName()); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.GetAnnotations())) {
		if !strings.HasPrefix(key, cdi.AnnotationPrefix) {
			continue
		}
		for name := range strings.SplitSeq(c.GetAnnotations()[key], ",") {
			if err := add("config.annotations["+key+"]", name); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// Inject edits the specification of a container for the devices, by their full
// names. Lists of the specification are appended to, sorted and changed in place:
// they must be its own.
//
// A device that no file describes is ErrNotFound and named; one whose edits cannot
// be made, because a device node is missing for example, is
// ErrFailedPrecondition. After an error the specification is not to be used. A
// directory that does not answer ends with ctx.
func (i *Injector) Inject(ctx context.Context, s *specs.Spec, devices []string) error {
	if len(devices) == 0 {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- i.inject(s, devices) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("read CDI specifications in %s: %w", strings.Join(i.dirs, ", "), ctx.Err())
	}
}

func (i *Injector) inject(s *specs.Spec, devices []string) error {
	// This reads the directories as well.
	if err := i.cache.Configure(cdi.WithSpecDirs(i.dirs...)); err != nil {
		return fmt.Errorf("read CDI specifications: %w", err)
	}
	unresolved, err := i.cache.InjectDevices(s, devices...)
	switch {
	case len(unresolved) > 0:
		return fmt.Errorf("CDI device %s is described by no file in %s%s: %w",
			quoted(unresolved), strings.Join(i.dirs, ", "), i.damaged(), errdefs.ErrNotFound)
	case err != nil:
		return fmt.Errorf("give CDI device %s: %w: %w", quoted(devices), err, errdefs.ErrFailedPrecondition)
	}
	i.log.Debug("gave CDI devices", "devices", devices)
	return nil
}

// damaged tells which files could not be read: one of them may be what should
// have described a device.
func (i *Injector) damaged() string {
	byFile := i.cache.GetErrors()
	if len(byFile) == 0 {
		return ""
	}
	var all []string
	for _, file := range slices.Sorted(maps.Keys(byFile)) {
		all = append(all, file+": "+errors.Join(byFile[file]...).Error())
	}
	return " (could not be read: " + strings.Join(all, "; ") + ")"
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = strconv.Quote(n)
	}
	return strings.Join(q, ", ")
}
