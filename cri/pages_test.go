package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// all reads a stream to its end.
func all[T any](t *testing.T, stream grpc.ServerStreamingClient[T], err error) ([]*T, error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var messages []*T
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return messages, nil
		}
		if err != nil {
			return messages, err
		}
		messages = append(messages, m)
	}
}

func numbered(n int) []*runtimeapi.Container {
	list := make([]*runtimeapi.Container, n)
	for i := range list {
		list[i] = &runtimeapi.Container{Id: fmt.Sprint(i), Annotations: map[string]string{"a": strings.Repeat("x", 1000)}}
	}
	return list
}

// Every item is in one page, in order; a page is neither empty nor too large.
func TestPages(t *testing.T) {
	f := serve(t, nil)
	for _, n := range []int{0, 1, pageItems, pageItems + 1, 5000} {
		list := numbered(n)
		f.runtime.containers = func(*runtimeapi.ContainerFilter) []*runtimeapi.Container { return list }
		stream, err := f.rpc().StreamContainers(t.Context(), &runtimeapi.StreamContainersRequest{})
		pages, err := all(t, stream, err)
		if err != nil {
			t.Fatalf("%d items: %v", n, err)
		}
		next := 0
		for _, page := range pages {
			if len(page.Containers) == 0 || len(page.Containers) > pageItems || proto.Size(page) > pageBytes+8*pageItems {
				t.Errorf("%d items: a page of %d with %d bytes", n, len(page.Containers), proto.Size(page))
			}
			for _, c := range page.Containers {
				if c.Id != fmt.Sprint(next) {
					t.Fatalf("%d items: %s in place of %d", n, c.Id, next)
				}
				next++
			}
		}
		if next != n {
			t.Errorf("%d items of %d", next, n)
		}
	}
	huge := []*runtimeapi.Container{{Id: "a", ImageId: strings.Repeat("x", 2*pageBytes)}, {Id: "b"}, {Id: "c"}}
	if n := pageLength(huge); n != 1 {
		t.Errorf("a page of an item that is larger than one has %d", n)
	}
}

func TestStreamsAnswerAsTheirTwins(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	sandboxes, err := f.rpc().StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	if pages, err := all(t, sandboxes, err); err != nil || len(pages) != 1 || pages[0].PodSandboxes[0].Id != sandboxID {
		t.Errorf("sandboxes: %v, %v", pages, err)
	}
	containerStats, err := f.rpc().StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{})
	if pages, err := all(t, containerStats, err); err != nil || len(pages) != 1 || len(pages[0].ContainerStats) != 1 {
		t.Errorf("container stats: %v, %v", pages, err)
	}
	podStats, err := f.rpc().StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{})
	if pages, err := all(t, podStats, err); err != nil || len(pages) != 1 || len(pages[0].PodSandboxStats) != 1 {
		t.Errorf("pod stats: %v, %v", pages, err)
	}
	metrics, err := f.rpc().StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	if pages, err := all(t, metrics, err); err != nil || len(pages) != 1 || pages[0].PodSandboxMetrics[0].PodSandboxId != sandboxID {
		t.Errorf("metrics: %v, %v", pages, err)
	}
	images, err := f.imageRPC().StreamImages(ctx, &runtimeapi.StreamImagesRequest{})
	if pages, err := all(t, images, err); err != nil || len(pages) != 1 || pages[0].Images[0].Id != imageID {
		t.Errorf("images: %v, %v", pages, err)
	}
	var asked *runtimeapi.ContainerFilter
	f.runtime.containers = func(filter *runtimeapi.ContainerFilter) []*runtimeapi.Container { asked = filter; return nil }
	containers, err := f.rpc().StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: "abc"}})
	if pages, err := all(t, containers, err); err != nil || len(pages) != 0 || asked.GetId() != "abc" {
		t.Errorf("containers: %v, %v; asked for %v", pages, err, asked)
	}
}

// Malformed requests of streams are InvalidArgument as those of other calls are.
func TestMalformedStreams(t *testing.T) {
	f := serve(t, nil)
	ctx := t.Context()
	bad := map[string]string{"": "v"}
	errs := map[string]error{}
	sandboxes, err := f.rpc().StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: "../x"}})
	_, errs["filter.id"] = all(t, sandboxes, err)
	containers, err := f.rpc().StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: "a b"}})
	_, errs["filter.pod_sandbox_id"] = all(t, containers, err)
	containerStats, err := f.rpc().StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: bad}})
	_, errs["filter.label_selector"] = all(t, containerStats, err)
	podStats, err := f.rpc().StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: "-"}})
	_, errs["filter.id: "] = all(t, podStats, err)
	images, err := f.imageRPC().StreamImages(ctx, &runtimeapi.StreamImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "a b"}}})
	_, errs["filter.image.image"] = all(t, images, err)
	for field, err := range errs {
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	// A string that is not UTF-8 does not even decode.
	stream, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, runtimeapi.RuntimeService_StreamContainers_FullMethodName, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.SendMsg(&[]byte{0x0a, 0x03, 0x0a, 0x01, 0xff}), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	if err := stream.RecvMsg(&answer); status.Code(err) != codes.InvalidArgument {
		t.Errorf("not UTF-8: %v", err)
	}
}

// A client that does not read has its own call wait, and no other.
func TestSlowStreamHoldsNothingUp(t *testing.T) {
	f := serve(t, nil)
	list := numbered(20_000) // far more than a connection buffers
	f.runtime.containers = func(*runtimeapi.ContainerFilter) []*runtimeapi.Container { return list }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow, err := f.rpc().StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := slow.Recv()
	if err != nil || len(first.Containers) == 0 {
		t.Fatalf("%v, %v", first, err)
	}
	list = nil // what comes later is not in the pages of before
	for range 3 {
		if l, err := f.rpc().ListContainers(t.Context(), &runtimeapi.ListContainersRequest{}); err != nil || len(l.Containers) != 0 {
			t.Fatalf("%v, %v", l, err)
		}
	}
	rest := len(first.Containers)
	for {
		page, err := slow.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rest += len(page.Containers)
	}
	if rest != 20_000 {
		t.Errorf("the slow client got %d items", rest)
	}
}

func TestPodCIDRs(t *testing.T) {
	f := serve(t, nil)
	update := func(cidr string) error {
		_, err := f.rpc().UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
		})
		return err
	}
	for cidr, want := range map[string][]netip.Prefix{
		"10.1.0.0/16":           {netip.MustParsePrefix("10.1.0.0/16")},
		"10.1.2.3/16":           {netip.MustParsePrefix("10.1.0.0/16")},
		"10.1.0.0/24,fd00::/64": {netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00::/64")},
		"fd00::/64,10.1.0.0/24": {netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("10.1.0.0/24")},
	} {
		if err := update(cidr); err != nil {
			t.Errorf("%q: %v", cidr, err)
		}
		if !slices.ContainsFunc(f.runtime.seen(), func(c call) bool { return c.name == "SetPodCIDRs" && c.id == fmt.Sprint(want) }) {
			t.Errorf("%q is not %v: %v", cidr, want, f.runtime.seen())
		}
	}
	for _, cidr := range []string{
		"10.1.0.0", "10.1.0.0/33", "10.1.0.0/24,", ",", "10.1.0.0/24,10.2.0.0/24", "fd00::/64,fd01::/64", "10.1.0.0/24, fd00::/64",
		"10.1.0.0/24,fd00::/64,fd01::/64", "::ffff:10.0.0.0/120", "fe80::%eth0/64", strings.Repeat("1", 100_000),
	} {
		err := update(cidr)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "runtime_config.network_config.pod_cidr") {
			t.Errorf("%.50q: %v", cidr, err)
		}
	}
	before := len(f.runtime.seen())
	if err := update(""); err != nil || len(f.runtime.seen()) != before {
		t.Errorf("no CIDR: %v, %v", err, f.runtime.seen()[before:])
	}
}
