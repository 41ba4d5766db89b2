package spec

import (
	"fmt"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkBuild builds what a kubelet sends for an ordinary pod.
func BenchmarkBuild(b *testing.B) {
	in := testInput(b)
	in.Image.Config.User = "app"
	in.Container.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 1 << 28, OomScoreAdj: 900}
	securityContext(&in).Seccomp = &runtimeapi.SecurityProfile{}
	for i := range 40 {
		in.Container.Envs = append(in.Container.Envs, &runtimeapi.KeyValue{Key: fmt.Sprintf("SERVICE_%d_PORT", i), Value: []byte("tcp://10.0.0.1:80")})
	}
	for _, dst := range []string{"/var/run/secrets/kubernetes.io/serviceaccount", "/etc/hosts", "/dev/termination-log", "/data", "/cache"} {
		in.Container.Mounts = append(in.Container.Mounts, &runtimeapi.Mount{ContainerPath: dst, HostPath: b.TempDir()})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Build(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
