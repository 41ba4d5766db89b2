// Package classes gives containers the classes of cache and memory bandwidth (RDT)
// and of block I/O that an operator has defined on the node, with
// github.com/intel/goresctrl. Annotations of the pod name them:
//
//	rdt.resources.beta.kubernetes.io/pod: gold
//	blockio.resources.beta.kubernetes.io/container.NAME: slow
package classes

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/intel/goresctrl/pkg/blockio"
	"github.com/intel/goresctrl/pkg/kubernetes"
	"github.com/intel/goresctrl/pkg/rdt"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Classes are those that the node has. The library keeps them for the whole
// process, so there is one Classes.
type Classes struct {
	// Why there are none; nil where there are.
	noRDT, noBlockIO error
}

// New reads the definitions from the files; "" for none. A file that cannot be
// read or that is wrong is an error; a kernel without RDT is none until a
// container asks for a class.
func New(rdtFile, blockioFile string) (*Classes, error) {
	c := &Classes{}
	if rdtFile == "" {
		c.noRDT = fmt.Errorf("runtime.rdtConfigFile names no definitions: %w", errdefs.ErrFailedPrecondition)
	} else if err := rdt.Initialize(""); err != nil {
		c.noRDT = fmt.Errorf("this node has no RDT: %w: %w", err, errdefs.ErrFailedPrecondition)
	} else if err := rdt.SetConfigFromFile(rdtFile, true); err != nil {
		return nil, fmt.Errorf("runtime.rdtConfigFile: %w", err)
	}
	if blockioFile == "" {
		c.noBlockIO = fmt.Errorf("runtime.blockioConfigFile names no definitions: %w", errdefs.ErrFailedPrecondition)
	} else if err := blockio.SetConfigFromFile(blockioFile, true); err != nil {
		return nil, fmt.Errorf("runtime.blockioConfigFile: %w", err)
	}
	return c, nil
}

// RDT is the specification of a class; one that does not exist is ErrNotFound, and
// any where the node has none is ErrFailedPrecondition. Both name it.
func (c *Classes) RDT(class string) (*specs.LinuxIntelRdt, error) {
	if c.noRDT != nil {
		return nil, fmt.Errorf("RDT class %q: %w", class, c.noRDT)
	}
	if _, ok := rdt.GetClass(class); !ok {
		return nil, fmt.Errorf("RDT class %q is not defined on this node: %w", class, errdefs.ErrNotFound)
	}
	return &specs.LinuxIntelRdt{ClosID: class}, nil
}

// BlockIO is RDT for a class of block I/O.
func (c *Classes) BlockIO(class string) (*specs.LinuxBlockIO, error) {
	if c.noBlockIO != nil {
		return nil, fmt.Errorf("block I/O class %q: %w", class, c.noBlockIO)
	}
	limits, err := blockio.OciLinuxBlockIO(class)
	if err != nil {
		return nil, fmt.Errorf("block I/O class %q is not defined on this node: %w: %w", class, err, errdefs.ErrNotFound)
	}
	return limits, nil
}

// Apply sets in the specification what the annotations ask for. An annotation of
// the container wins over the pod's for it, and that over the pod's for all.
func (c *Classes) Apply(s *specs.Spec, container string, containerAnnotations, podAnnotations map[string]string) error {
	name, _ := kubernetes.ContainerClassFromAnnotations(rdt.RdtContainerAnnotation, rdt.RdtPodAnnotation,
		rdt.RdtPodAnnotationContainerPrefix, container, containerAnnotations, podAnnotations)
	if name != "" {
		class, err := c.RDT(name)
		if err == nil {
			// A definition can say that annotations may not ask for it.
			_, err = allowed(rdt.ContainerClassFromAnnotations(container, containerAnnotations, podAnnotations))
		}
		if err != nil {
			return err
		}
		s.Linux.IntelRdt = class
	}
	name, err := allowed(blockio.ContainerClassFromAnnotations(container, containerAnnotations, podAnnotations))
	if err != nil || name == "" {
		return err
	}
	s.Linux.Resources.BlockIO, err = c.BlockIO(name)
	return err
}

func allowed(name string, err error) (string, error) {
	if err != nil {
		return "", fmt.Errorf("class of an annotation: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return name, nil
}
