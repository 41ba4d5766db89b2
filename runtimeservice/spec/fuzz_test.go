package spec

import (
	"context"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzBuild takes any bytes as a request for a container, and as its image's user, directory,
// variable and signal: all that is wrong with them is the request's, the image's or the node's fault.
func FuzzBuild(f *testing.F) {
	in := testInput(f)
	seed := func(c *runtimeapi.ContainerConfig, s *runtimeapi.PodSandboxConfig, text string) {
		wire, err := proto.Marshal(&runtimeapi.CreateContainerRequest{Config: c, SandboxConfig: s})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, text)
	}
	seed(in.Container, in.Sandbox, "1000:1000")
	seed(fuzzSeed(), in.Sandbox, "nobody")
	seed(&runtimeapi.ContainerConfig{}, nil, "")
	f.Fuzz(func(t *testing.T, wire []byte, text string) {
		var r runtimeapi.CreateContainerRequest
		if proto.Unmarshal(wire, &r) != nil || r.Config == nil {
			return
		}
		in := in
		in.Container, in.Sandbox = r.Config, r.SandboxConfig
		in.Image = &ocispec.Image{Config: ocispec.ImageConfig{
			User: text, WorkingDir: text, StopSignal: text, Env: []string{text}, Cmd: []string{text}, Volumes: map[string]struct{}{text: {}},
		}}
		in.ImageMounts = make(map[int]ImageMount)
		for i, m := range r.Config.GetMounts() {
			if m.GetImage() != nil {
				in.ImageMounts[i] = ImageMount{Root: in.Rootfs}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err := Build(ctx, in)
		if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("error of no kind: %v", err)
		}
		if _, err := ImageVolumes(r.Config, in.Image); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("error of no kind: %v", err)
		}
		if _, err := LinuxResources("linux", r.Config.GetLinux().GetResources(), in.Host); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("error of no kind: %v", err)
		}
	})
}

// fuzzSeed has something in every part of a request.
func fuzzSeed() *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Command: []string{"/bin/true"}, Args: []string{"a"}, WorkingDir: "/tmp", StopSignal: runtimeapi.Signal_SIGNAL_SIGUSR1,
		Envs:        []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b")}},
		Annotations: map[string]string{"a": "b"},
		Mounts: []*runtimeapi.Mount{
			{ContainerPath: "/v", HostPath: "/tmp", Readonly: true, MountOptions: []string{"noexec"}},
			{ContainerPath: "/i", Image: &runtimeapi.ImageSpec{Image: "i"}, ImageSubPath: "etc"},
			{ContainerPath: "/proc", HostPath: "/proc", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		},
		Devices: []*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rw"}},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 1000, CpuShares: 2, MemoryLimitInBytes: 1 << 20, MemorySwapLimitInBytes: 1 << 21, OomScoreAdj: 5,
				CpusetCpus: "0", CpusetMems: "0", Unified: map[string]string{"memory.high": "1"}, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}},
			},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				Capabilities:     &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}, DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"CHOWN"}},
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				SelinuxOptions:   &runtimeapi.SELinuxOption{Level: "s0"},
				RunAsUsername:    "nobody", RunAsGroup: &runtimeapi.Int64Value{Value: 5}, SupplementalGroups: []int64{7},
				MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
				Seccomp:  &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/nonexistent"},
				Apparmor: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined},
			},
		},
	}
}

// What an image says besides what it runs has no part in the specification: neither labels nor
// the rest can be read as an order by what comes after (CVE-2026-53488).
func TestImagesGiveNoOrders(t *testing.T) {
	in := testInput(t)
	in.Defaults.Annotations = []string{"*"}
	in.Container.Annotations = map[string]string{"asked": "for"}
	want, wantResolved, err := Build(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	reserved := []string{
		"run.oci.hooks.stderr", "run.oci.keep_original_groups", "org.systemd.property.DeviceAllow", "io.katacontainers.config.hypervisor.path",
		"io.containerd.runc.v2.group", "containerd.io/restart.loguri", "cdi.k8s.io/gpu", "io.kubernetes.cri-o.Devices", "nri.io/a", "berth.dev/privileged",
		"seccomp.security.alpha.kubernetes.io/pod", "container.apparmor.security.beta.kubernetes.io/c", "devices.nri.io/pod", "asked", "",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		labels := make(map[string]string)
		for range 1 + random.IntN(6) {
			key := reserved[random.IntN(len(reserved))]
			if random.IntN(3) == 0 {
				key += string(rune(random.IntN(0x250)))
			}
			labels[key] = []string{"binary:///bin/sh", "unconfined", "true", "/etc/shadow", "\x00", "[{\"path\":\"/dev/sda\"}]"}[random.IntN(6)]
		}
		hostile := in
		hostile.Image = &ocispec.Image{
			Author: "binary:///bin/sh", Platform: ocispec.Platform{OS: "linux", OSFeatures: []string{"privileged"}},
			Config: ocispec.ImageConfig{Labels: labels, ExposedPorts: map[string]struct{}{"22/tcp": {}, "": {}}, ArgsEscaped: true}, //lint:ignore SA1019 an image may have it
		}
		got, gotResolved, err := Build(t.Context(), hostile)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(gotResolved, wantResolved) {
			t.Fatalf("the labels %q change the specification", labels)
		}
	}
}
