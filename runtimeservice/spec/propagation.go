package spec

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/hostpath"
)

// CheckPropagation is for a mount that no request asks for: bothWays stands for one
// whose mounts also leave the container. The error is ErrFailedPrecondition.
func (h *Host) CheckPropagation(ctx context.Context, source string, bothWays bool) error {
	const field = "mount propagation"
	want := runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	if bothWays {
		want = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	at, err := resolveHostPath(ctx, h.paths(), field, source)
	if err != nil {
		return err
	}
	return checkPropagation(field, at, want)
}

// checkPropagation refuses a propagation that the mount under source cannot
// carry: mounts reach the container only from a shared or slave mount, and leave
// it only into a shared one.
func checkPropagation(field string, source hostpath.Path, want runtimeapi.MountPropagation) error {
	m, found, err := hostpath.FindMount(source.Mount)
	toContainer := want == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", field, err)
	case !found:
		return precondition(field, "the mount of %q went away", source.Name)
	case m.Shared, m.Slave && toContainer:
		return nil
	case toContainer:
		return precondition(field, "%q is on %q, which is not a shared or slave mount", source.Name, m.Point)
	}
	return precondition(field, "%q is on %q, which is not a shared mount", source.Name, m.Point)
}
