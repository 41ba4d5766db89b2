package spec

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func destinations(mounts []specs.Mount) []string {
	var out []string
	for _, m := range mounts {
		out = append(out, m.Destination)
	}
	return out
}

func mountAt(t *testing.T, mounts []specs.Mount, dst string) specs.Mount {
	t.Helper()
	i := slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Destination == dst })
	if i < 0 {
		t.Fatalf("nothing is mounted at %s", dst)
	}
	return mounts[i]
}

func TestDefaultMounts(t *testing.T) {
	in := testInput(t)
	s, _ := mustBuild(t, in)
	wantEqual(t, "mounts", destinations(s.Mounts), []string{"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup",
		"/dev/shm", "/etc/resolv.conf", "/etc/hostname"})
	for _, dst := range []string{"/sys", "/sys/fs/cgroup"} {
		if m := mountAt(t, s.Mounts, dst); !slices.Contains(m.Options, "ro") {
			t.Errorf("%s is mounted %v", dst, m.Options)
		}
	}
	wantEqual(t, "source of /dev/shm", mountAt(t, s.Mounts, "/dev/shm").Source, "/run/shm")
	if m := mountAt(t, s.Mounts, "/etc/hostname"); m.Source != "/run/hostname" || !slices.Contains(m.Options, "rw") {
		t.Errorf("/etc/hostname is %+v", m)
	}
	securityContext(&in).ReadonlyRootfs = true
	s, _ = mustBuild(t, in)
	if m := mountAt(t, s.Mounts, "/etc/resolv.conf"); !s.Root.Readonly || !slices.Contains(m.Options, "ro") {
		t.Errorf("with a read-only root /etc/resolv.conf is %+v", m)
	}
	in.PodFiles = PodFiles{}
	s, _ = mustBuild(t, in)
	wantEqual(t, "type of /dev/shm without the pod's", mountAt(t, s.Mounts, "/dev/shm").Type, "tmpfs")
	if slices.Contains(destinations(s.Mounts), "/etc/hostname") {
		t.Error("a file that the pod does not have is mounted")
	}
}

func TestSharedMemory(t *testing.T) {
	in := testInput(t)
	in.Sandbox.Linux.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_NODE
	s, _ := mustBuild(t, in)
	wantEqual(t, "source with the node's IPC", mountAt(t, s.Mounts, "/dev/shm").Source, "/dev/shm")
	in = testInput(t)
	securityContext(&in).NamespaceOptions.Ipc = runtimeapi.NamespaceMode_CONTAINER
	s, _ = mustBuild(t, in)
	wantEqual(t, "type with an IPC namespace of its own", mountAt(t, s.Mounts, "/dev/shm").Type, "tmpfs")
}

func TestRequestedMounts(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	link, target := filepath.Join(dir, "link"), filepath.Join(dir, "real")
	at := func(dst string) *runtimeapi.Mount { return &runtimeapi.Mount{ContainerPath: dst, HostPath: link} }

	in := testInput(t)
	in.Container.Mounts = []*runtimeapi.Mount{at("/data/deep/er"), at("/data"), at("/etc/"), at("/data/deep"), at("/data/./x/../other")}
	in.Container.Mounts[1].Readonly = true
	in.Container.Mounts[3].Readonly, in.Container.Mounts[3].RecursiveReadOnly = true, true
	in.Container.Mounts[4].SelinuxRelabel = true
	s, r := mustBuild(t, in)
	wantEqual(t, "order", destinations(s.Mounts)[6:], []string{"/data", "/etc", "/dev/shm", "/etc/resolv.conf", "/etc/hostname",
		"/data/deep", "/data/other", "/data/deep/er"})
	wantEqual(t, "read-only mount", mountAt(t, s.Mounts, "/data"), bind(target, "/data", "rprivate", "ro"))
	wantEqual(t, "recursive read-only mount", mountAt(t, s.Mounts, "/data/deep"), bind(target, "/data/deep", "rprivate", "rro"))
	wantEqual(t, "writable mount", mountAt(t, s.Mounts, "/data/deep/er"), bind(target, "/data/deep/er", "rprivate", "rw"))
	wantEqual(t, "mounts for the status", r.Mounts, in.Container.Mounts)
	wantEqual(t, "root propagation", s.Linux.RootfsPropagation, "")
}

func TestMountsOverDefaults(t *testing.T) {
	tests := []struct {
		dst     string
		gone    []string
		remains []string
	}{
		{"/etc/hosts", nil, []string{"/etc/hostname", "/etc/resolv.conf"}},
		{"/etc/resolv.conf", nil, []string{"/etc/hostname"}},
		{"/dev/shm", nil, []string{"/dev", "/dev/pts"}},
		{"/sys/fs/cgroup", nil, []string{"/sys"}},
		{"/sys", []string{"/sys/fs/cgroup"}, []string{"/proc"}},
		{"/dev", []string{"/dev/pts", "/dev/mqueue"}, []string{"/dev/shm"}},
		{"/devices", nil, []string{"/dev", "/dev/pts"}},
		{"/proc/cpuinfo", nil, []string{"/proc"}},
	}
	for _, tc := range tests {
		t.Run(tc.dst, func(t *testing.T) {
			in := testInput(t)
			source := t.TempDir()
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: tc.dst, HostPath: source}}
			s, _ := mustBuild(t, in)
			dsts := destinations(s.Mounts)
			if n := len(slices.DeleteFunc(slices.Clone(dsts), func(d string) bool { return d != tc.dst })); n != 1 {
				t.Errorf("%d mounts at %s", n, tc.dst)
			}
			wantEqual(t, "source", mountAt(t, s.Mounts, tc.dst).Source, source)
			for _, d := range tc.gone {
				if slices.Contains(dsts, d) {
					t.Errorf("%s is still mounted", d)
				}
			}
			for _, d := range tc.remains {
				mountAt(t, s.Mounts, d)
			}
		})
	}
}

func TestMountsRefused(t *testing.T) {
	const (
		slave = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	)
	dir := t.TempDir()
	dangling := filepath.Join(dir, "dangling")
	must(t, os.Symlink("nowhere", dangling))
	tests := []struct {
		mount *runtimeapi.Mount
		field string
		kind  error
	}{
		{&runtimeapi.Mount{ContainerPath: "/x"}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: "rel"}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: "/a\x00"}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir + "/missing"}, "host_path", errdefs.ErrNotFound},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dangling}, "host_path", errdefs.ErrNotFound},
		{&runtimeapi.Mount{ContainerPath: "", HostPath: dir}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "x", HostPath: dir}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/", HostPath: dir}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x/../..", HostPath: dir}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x\x00", HostPath: dir}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/proc/self/attr", HostPath: dir}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/etc/../proc/1", HostPath: dir}, "container_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/proc", HostPath: dir}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, Propagation: 7}, "propagation", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, RecursiveReadOnly: true}, "recursive_read_only", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, RecursiveReadOnly: true, Readonly: true, Propagation: slave}, "recursive_read_only", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, Image: &runtimeapi.ImageSpec{Image: "a"}}, "host_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{}}, "image.image", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "a"}, ImageSubPath: "../x"}, "image_sub_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "a"}, ImageSubPath: "/x"}, "image_sub_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "a"}, SelinuxRelabel: true}, "selinux_relabel", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "a"}, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL}, "propagation", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, ImageSubPath: "x"}, "image_sub_path", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, MountOptions: []string{"noexec", "exec"}}, "mount_options[1]", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, MountOptions: []string{"rw"}}, "mount_options[0]", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, MountOptions: []string{"rshared"}}, "mount_options[0]", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, MountOptions: []string{""}}, "mount_options[0]", errdefs.ErrInvalidArgument},
		{&runtimeapi.Mount{ContainerPath: "/x", HostPath: dir, UidMappings: []*runtimeapi.IDMapping{{}}}, "uidMappings", errdefs.ErrInvalidArgument},
	}
	for _, tc := range tests {
		in := testInput(t)
		in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/ok", HostPath: dir}, tc.mount}
		_, _, err := Build(t.Context(), in)
		wantError(t, err, tc.kind, "config.mounts[1]."+tc.field+": ")
		if tc.kind == errdefs.ErrNotFound && !strings.Contains(err.Error(), tc.mount.HostPath) {
			t.Errorf("error does not name %s: %v", tc.mount.HostPath, err)
		}
	}
}

func TestProcOfTheNode(t *testing.T) {
	in := testInput(t)
	in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/proc", HostPath: "/proc"}}
	s, _ := mustBuild(t, in)
	wantEqual(t, "type of /proc", mountAt(t, s.Mounts, "/proc").Type, "bind")
}

func TestInterruptible(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	release := make(chan struct{})
	defer close(release)
	_, err := interruptible(ctx, "look", func() (int, error) { <-release; return 1, nil })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "look: ") {
		t.Errorf("error is %v", err)
	}
	if v, err := interruptible(t.Context(), "look", func() (int, error) { return 1, nil }); v != 1 || err != nil {
		t.Errorf("result is %d, %v", v, err)
	}
}
