package spec

import (
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPropagation needs the right to mount.
func TestPropagation(t *testing.T) {
	const (
		private = runtimeapi.MountPropagation_PROPAGATION_PRIVATE
		slave   = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		shared  = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	)
	dir := resolved(t, t.TempDir())
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	below := filepath.Join(dir, "volume")
	must(t, unix.Mkdir(below, 0o755))

	build := func(p ...runtimeapi.MountPropagation) (root string, err error) {
		in := testInput(t)
		for _, p := range p {
			in.Container.Mounts = append(in.Container.Mounts, &runtimeapi.Mount{ContainerPath: "/v", HostPath: below, Propagation: p})
		}
		s, _, err := Build(t.Context(), in)
		if err != nil {
			return "", err
		}
		return s.Linux.RootfsPropagation, nil
	}
	must(t, unix.Mount("", dir, "", unix.MS_PRIVATE, ""))
	for _, p := range []runtimeapi.MountPropagation{slave, shared} {
		_, err := build(p)
		wantError(t, err, errdefs.ErrFailedPrecondition, "config.mounts[0].propagation: ")
	}
	must(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
	for _, tc := range []struct {
		modes []runtimeapi.MountPropagation
		want  string
	}{
		{[]runtimeapi.MountPropagation{private}, ""},
		{[]runtimeapi.MountPropagation{slave}, "rslave"},
		{[]runtimeapi.MountPropagation{shared}, "rshared"},
		{[]runtimeapi.MountPropagation{private, slave, private}, "rslave"},
		{[]runtimeapi.MountPropagation{slave, shared, slave, private}, "rshared"},
	} {
		root, err := build(tc.modes...)
		must(t, err)
		wantEqual(t, "root propagation", root, tc.want)
	}
}
