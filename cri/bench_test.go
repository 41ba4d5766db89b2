package cri

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkList is what a kubelet asks every second: 60 pods, with the labels
// and annotations that it gives them.
func BenchmarkList(b *testing.B) {
	var pods []*runtimeapi.PodSandbox
	for i := range 60 {
		pods = append(pods, &runtimeapi.PodSandbox{
			Id:       fmt.Sprintf("%064x", i),
			Metadata: goodSandboxConfig().Metadata,
			Labels: map[string]string{
				"io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "0f5e8d2c",
			},
			Annotations: map[string]string{"kubernetes.io/config.seen": strings.Repeat("2", 30), "kubernetes.io/config.source": "api"},
		})
	}
	f := serve(b, quiet)
	f.runtime.list = func(context.Context) ([]*runtimeapi.PodSandbox, error) { return pods, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.rpc().ListPodSandbox(b.Context(), &runtimeapi.ListPodSandboxRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVersion is the cost of a call that does nothing.
func BenchmarkVersion(b *testing.B) {
	f := serve(b, quiet)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.rpc().Version(b.Context(), &runtimeapi.VersionRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRunPodSandbox is the cost of the border for a whole configuration.
func BenchmarkRunPodSandbox(b *testing.B) {
	f := serve(b, quiet)
	f.runtime.runPodSandbox = func(context.Context, *runtimeapi.PodSandboxConfig) (string, error) { return sandboxID, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.rpc().RunPodSandbox(b.Context(), goodRunPodSandbox()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckCreateContainer(b *testing.B) {
	r := goodCreateContainer()
	b.ReportAllocs()
	for b.Loop() {
		if err := checkCreateContainer(r); err != nil {
			b.Fatal(err)
		}
	}
}

// quiet logs as a daemon at level info does.
func quiet(o *Options) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	o.Logger = slog.New(slog.NewJSONHandler(null, nil))
}
