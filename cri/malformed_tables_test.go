package cri

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// malformedTables has one for each RPC.
func malformedTables() []malformedTable {
	return slices.Concat([]malformedTable{
		malformedRunPodSandbox(),
		malformedCreateContainer(),
		malformedPullImage(),
		malformedUpdateRuntimeConfig(),
		malformedCheckpointContainer(),
		malformedCheckpointPod(),
		malformedRestorePod(),
	}, malformedByID(), malformedByFilter(), malformedByImage(), malformedExec(), malformedChanges(), nothingMalformed())
}

// badIDs are refused wherever an ID is; an empty one, too, where it selects nothing.
var badIDs = map[string]string{
	"path": "a/b", "parent": "../" + sandboxID, "hidden": ".aaaa", "space": "a b", "newline": "a\n", "NUL": "a\x00", "option": "-a",
	"long": strings.Repeat("a", maxID+1),
}

// badID makes the cases of the ID at path.
func badID[R any](path string, id func(R) *string, required bool) []malformedCase[R] {
	var cases []malformedCase[R]
	for name, v := range badIDs {
		cases = append(cases, malformedCase[R]{path, name, func(r R) { *id(r) = v }})
	}
	if required {
		cases = append(cases, malformedCase[R]{path, "empty", func(r R) { *id(r) = "" }})
	}
	return cases
}

// malformedByID are the RPCs whose requests have nothing but an ID.
func malformedByID() []malformedTable {
	return []malformedTable{
		byID("StopPodSandbox", "pod_sandbox_id", &runtimeapi.StopPodSandboxRequest{}, func(r *runtimeapi.StopPodSandboxRequest) *string { return &r.PodSandboxId }),
		byID("RemovePodSandbox", "pod_sandbox_id", &runtimeapi.RemovePodSandboxRequest{}, func(r *runtimeapi.RemovePodSandboxRequest) *string { return &r.PodSandboxId }),
		byID("PodSandboxStatus", "pod_sandbox_id", &runtimeapi.PodSandboxStatusRequest{Verbose: true}, func(r *runtimeapi.PodSandboxStatusRequest) *string { return &r.PodSandboxId }),
		byID("PodSandboxStats", "pod_sandbox_id", &runtimeapi.PodSandboxStatsRequest{}, func(r *runtimeapi.PodSandboxStatsRequest) *string { return &r.PodSandboxId }),
		byID("StartContainer", "container_id", &runtimeapi.StartContainerRequest{}, func(r *runtimeapi.StartContainerRequest) *string { return &r.ContainerId }),
		byID("RemoveContainer", "container_id", &runtimeapi.RemoveContainerRequest{}, func(r *runtimeapi.RemoveContainerRequest) *string { return &r.ContainerId }),
		byID("ContainerStatus", "container_id", &runtimeapi.ContainerStatusRequest{Verbose: true}, func(r *runtimeapi.ContainerStatusRequest) *string { return &r.ContainerId }),
		byID("ContainerStats", "container_id", &runtimeapi.ContainerStatsRequest{}, func(r *runtimeapi.ContainerStatsRequest) *string { return &r.ContainerId }),
		byID("ReopenContainerLog", "container_id", &runtimeapi.ReopenContainerLogRequest{}, func(r *runtimeapi.ReopenContainerLogRequest) *string { return &r.ContainerId }),
	}
}

func byID[R proto.Message](rpc, path string, request R, id func(R) *string) malformedTable {
	return tableOf(rpc, func() R {
		good := proto.CloneOf(request)
		*id(good) = sandboxID
		return good
	}, badID(path, id, true))
}

// malformedByFilter are the lists, and the streams of the same.
func malformedByFilter() []malformedTable {
	sandboxes, containers := sandboxFilterCases(), containerFilterCases()
	containerStats, sandboxStats := containerStatsFilterCases(), sandboxStatsFilterCases()
	labels := map[string]string{"a": "b"}
	goodSandboxes := func() *runtimeapi.PodSandboxFilter {
		return &runtimeapi.PodSandboxFilter{Id: sandboxID, State: &runtimeapi.PodSandboxStateValue{}, LabelSelector: labels}
	}
	goodContainers := func() *runtimeapi.ContainerFilter {
		return &runtimeapi.ContainerFilter{Id: containerID, PodSandboxId: sandboxID, State: &runtimeapi.ContainerStateValue{}, LabelSelector: labels}
	}
	goodContainerStats := func() *runtimeapi.ContainerStatsFilter {
		return &runtimeapi.ContainerStatsFilter{Id: containerID, PodSandboxId: sandboxID, LabelSelector: labels}
	}
	goodSandboxStats := func() *runtimeapi.PodSandboxStatsFilter {
		return &runtimeapi.PodSandboxStatsFilter{Id: sandboxID, LabelSelector: labels}
	}
	return []malformedTable{
		tableOf("ListPodSandbox", func() *runtimeapi.ListPodSandboxRequest {
			return &runtimeapi.ListPodSandboxRequest{Filter: goodSandboxes()}
		}, nested("filter", (*runtimeapi.ListPodSandboxRequest).GetFilter, sandboxes)),
		tableOf("StreamPodSandboxes", func() *runtimeapi.StreamPodSandboxesRequest {
			return &runtimeapi.StreamPodSandboxesRequest{Filter: goodSandboxes()}
		}, nested("filter", (*runtimeapi.StreamPodSandboxesRequest).GetFilter, sandboxes)),
		tableOf("ListContainers", func() *runtimeapi.ListContainersRequest {
			return &runtimeapi.ListContainersRequest{Filter: goodContainers()}
		}, nested("filter", (*runtimeapi.ListContainersRequest).GetFilter, containers)),
		tableOf("StreamContainers", func() *runtimeapi.StreamContainersRequest {
			return &runtimeapi.StreamContainersRequest{Filter: goodContainers()}
		}, nested("filter", (*runtimeapi.StreamContainersRequest).GetFilter, containers)),
		tableOf("ListContainerStats", func() *runtimeapi.ListContainerStatsRequest {
			return &runtimeapi.ListContainerStatsRequest{Filter: goodContainerStats()}
		}, nested("filter", (*runtimeapi.ListContainerStatsRequest).GetFilter, containerStats)),
		tableOf("StreamContainerStats", func() *runtimeapi.StreamContainerStatsRequest {
			return &runtimeapi.StreamContainerStatsRequest{Filter: goodContainerStats()}
		}, nested("filter", (*runtimeapi.StreamContainerStatsRequest).GetFilter, containerStats)),
		tableOf("ListPodSandboxStats", func() *runtimeapi.ListPodSandboxStatsRequest {
			return &runtimeapi.ListPodSandboxStatsRequest{Filter: goodSandboxStats()}
		}, nested("filter", (*runtimeapi.ListPodSandboxStatsRequest).GetFilter, sandboxStats)),
		tableOf("StreamPodSandboxStats", func() *runtimeapi.StreamPodSandboxStatsRequest {
			return &runtimeapi.StreamPodSandboxStatsRequest{Filter: goodSandboxStats()}
		}, nested("filter", (*runtimeapi.StreamPodSandboxStatsRequest).GetFilter, sandboxStats)),
	}
}

// badLabels are refused as labels, annotations and selectors.
func badLabels[R any](path string, set func(R, map[string]string)) []malformedCase[R] {
	return []malformedCase[R]{
		{path, "empty key", func(r R) { set(r, map[string]string{"": "v"}) }},
		{path + `["a\nb"]`, "newline", func(r R) { set(r, map[string]string{"a\nb": "v"}) }},
		{path + `["a\x00"]`, "NUL", func(r R) { set(r, map[string]string{"a\x00": "v"}) }},
		{path, "long key", func(r R) { set(r, map[string]string{long: "v"}) }},
	}
}

func sandboxFilterCases() []malformedCase[*runtimeapi.PodSandboxFilter] {
	type filter = *runtimeapi.PodSandboxFilter
	return slices.Concat(
		badID("id", func(f filter) *string { return &f.Id }, false),
		badLabels("label_selector", func(f filter, m map[string]string) { f.LabelSelector = m }),
		[]malformedCase[filter]{
			{"state.state", "unknown", func(f filter) { f.State.State = 5 }},
			{"state.state", "negative", func(f filter) { f.State.State = -1 }},
		})
}

func containerFilterCases() []malformedCase[*runtimeapi.ContainerFilter] {
	type filter = *runtimeapi.ContainerFilter
	return slices.Concat(
		badID("id", func(f filter) *string { return &f.Id }, false),
		badID("pod_sandbox_id", func(f filter) *string { return &f.PodSandboxId }, false),
		badLabels("label_selector", func(f filter, m map[string]string) { f.LabelSelector = m }),
		[]malformedCase[filter]{{"state.state", "unknown", func(f filter) { f.State.State = 99 }}})
}

func containerStatsFilterCases() []malformedCase[*runtimeapi.ContainerStatsFilter] {
	type filter = *runtimeapi.ContainerStatsFilter
	return slices.Concat(
		badID("id", func(f filter) *string { return &f.Id }, false),
		badID("pod_sandbox_id", func(f filter) *string { return &f.PodSandboxId }, false),
		badLabels("label_selector", func(f filter, m map[string]string) { f.LabelSelector = m }))
}

func sandboxStatsFilterCases() []malformedCase[*runtimeapi.PodSandboxStatsFilter] {
	type filter = *runtimeapi.PodSandboxStatsFilter
	return slices.Concat(
		badID("id", func(f filter) *string { return &f.Id }, false),
		badLabels("label_selector", func(f filter, m map[string]string) { f.LabelSelector = m }))
}

func goodImageSpec() *runtimeapi.ImageSpec {
	return &runtimeapi.ImageSpec{
		Image: "[fd00::1]:5000/team/app:v1@" + imageID, ImageRef: imageID, UserSpecifiedImage: "app:v1",
		RuntimeHandler: "kata", Annotations: map[string]string{"a": "b\nc"},
	}
}

// badImageNames are refused wherever the name of an image is.
var badImageNames = map[string]string{
	"space": "a b", "newline": "a\nb", "control character": "a\x1b", "NUL": "a\x00", "path": "../../etc/passwd", "path inside": "a/../b", "absolute": "/a",
	"empty element": "a//b", "unknown digest": "a@md5:0123", "short digest": "a@sha256:0123", "digest with a path": "a@sha256:../../../../x",
	"two digests": "a@" + imageID + "@" + imageID, "long": long,
}

// imageSpecCases are of the image at path; a filter may be without a name.
func imageSpecCases() []malformedCase[*runtimeapi.ImageSpec] {
	type spec = *runtimeapi.ImageSpec
	cases := slices.Concat(
		badLabels("annotations", func(s spec, m map[string]string) { s.Annotations = m }),
		[]malformedCase[spec]{
			{"user_specified_image", "newline", func(s spec) { s.UserSpecifiedImage = "a\nb" }},
			{"user_specified_image", "long", func(s spec) { s.UserSpecifiedImage = long }},
			{"runtime_handler", "path", func(s spec) { s.RuntimeHandler = "a/b" }},
			{"runtime_handler", "long", func(s spec) { s.RuntimeHandler = long }},
		})
	for name, v := range badImageNames {
		cases = append(cases,
			malformedCase[spec]{"image", name, func(s spec) { s.Image = v }},
			malformedCase[spec]{"image_ref", name, func(s spec) { s.ImageRef = v }})
	}
	return cases
}

// requiredImageCases add that there has to be an image.
func requiredImageCases[R any](path string, image func(R) **runtimeapi.ImageSpec) []malformedCase[R] {
	return append(nested(path, func(r R) *runtimeapi.ImageSpec { return *image(r) }, imageSpecCases()),
		malformedCase[R]{path + ".image", "absent", func(r R) { *image(r) = nil }},
		malformedCase[R]{path + ".image", "empty", func(r R) { (*image(r)).Image = "" }})
}

func malformedByImage() []malformedTable {
	type list = *runtimeapi.ListImagesRequest
	type stream = *runtimeapi.StreamImagesRequest
	filter := func() *runtimeapi.ImageFilter { return &runtimeapi.ImageFilter{Image: goodImageSpec()} }
	return []malformedTable{
		tableOf("ListImages", func() list { return &runtimeapi.ListImagesRequest{Filter: filter()} },
			nested("filter.image", func(r list) *runtimeapi.ImageSpec { return r.Filter.Image }, imageSpecCases())),
		tableOf("StreamImages", func() stream { return &runtimeapi.StreamImagesRequest{Filter: filter()} },
			nested("filter.image", func(r stream) *runtimeapi.ImageSpec { return r.Filter.Image }, imageSpecCases())),
		tableOf("ImageStatus", func() *runtimeapi.ImageStatusRequest {
			return &runtimeapi.ImageStatusRequest{Image: goodImageSpec(), Verbose: true}
		},
			requiredImageCases("image", func(r *runtimeapi.ImageStatusRequest) **runtimeapi.ImageSpec { return &r.Image })),
		tableOf("RemoveImage", func() *runtimeapi.RemoveImageRequest { return &runtimeapi.RemoveImageRequest{Image: goodImageSpec()} },
			requiredImageCases("image", func(r *runtimeapi.RemoveImageRequest) **runtimeapi.ImageSpec { return &r.Image })),
	}
}

func malformedPullImage() malformedTable {
	type request = *runtimeapi.PullImageRequest
	sandboxMetadata := slices.DeleteFunc(
		nested("sandbox_config", request.GetSandboxConfig, sandboxMetadataCases((*runtimeapi.PodSandboxConfig).GetMetadata)),
		func(c malformedCase[request]) bool { return c.name == "empty" })
	cases := slices.Concat(
		requiredImageCases("image", func(r request) **runtimeapi.ImageSpec { return &r.Image }),
		sandboxMetadata,
		[]malformedCase[request]{
			{"auth.username", "newline", func(r request) { r.Auth.Username = "a\r\nX-Header: b" }},
			{"auth.username", "long", func(r request) { r.Auth.Username = tooLong }},
			{"auth.password", "NUL", func(r request) { r.Auth.Password = "hunter2\x00" }},
			{"auth.password", "long", func(r request) { r.Auth.Password = tooLong }},
			{"auth.auth", "NUL", func(r request) { r.Auth.Auth = "aHVudGVyMg==\x00" }},
			{"auth.auth", "not base64", func(r request) { r.Auth = &runtimeapi.AuthConfig{Auth: "hunter2!"} }},
			{"auth.auth", "no colon", func(r request) { r.Auth = &runtimeapi.AuthConfig{Auth: "aHVudGVyMg=="} }},
			{"auth.auth", "long", func(r request) { r.Auth.Auth = tooLong }},
			{"auth.server_address", "newline", func(r request) { r.Auth.ServerAddress = "a\nb" }},
			{"auth.server_address", "long", func(r request) { r.Auth.ServerAddress = tooLong }},
			{"auth.registry_token", "newline", func(r request) { r.Auth.RegistryToken = "hunter2\n" }},
			{"auth.registry_token", "long", func(r request) { r.Auth.RegistryToken = tooLong }},
			{"auth.identity_token", "newline", func(r request) { r.Auth.IdentityToken = "hunter2\n" }},
			{"auth.identity_token", "long", func(r request) { r.Auth.IdentityToken = tooLong }},
		})
	return tableOf("PullImage", func() request {
		return &runtimeapi.PullImageRequest{
			Image: goodImageSpec(), SandboxConfig: goodSandboxConfig(),
			Auth: &runtimeapi.AuthConfig{Username: "_json_key", Password: "{\n\"key\": 1\n}", ServerAddress: "https://r.example"},
		}
	}, cases)
}

func malformedUpdateRuntimeConfig() malformedTable {
	type request = *runtimeapi.UpdateRuntimeConfigRequest
	var cases []malformedCase[request]
	for name, v := range map[string]string{
		"words": "pods", "an address": "10.0.0.1", "a range too wide": "10.0.0.0/33", "two of a family": "10.0.0.0/24,10.1.0.0/24", "three": "10.0.0.0/24,fd00::/64,fd01::/64",
		"a comma": ",", "a space": "10.0.0.0/24, fd00::/64", "a zone": "fe80::%eth0/64", "mapped": "::ffff:10.0.0.0/120", "newline": "10.0.0.0/24\n", "long": long,
	} {
		cases = append(cases, malformedCase[request]{"runtime_config.network_config.pod_cidr", name, func(r request) { r.RuntimeConfig.NetworkConfig.PodCidr = v }})
	}
	return tableOf("UpdateRuntimeConfig", func() request {
		return &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.0.0.0/24,fd00::/64"}}}
	}, cases)
}

// badCommands are refused as a command with its arguments.
func badCommands[R any](path string, cmd func(R) *[]string) []malformedCase[R] {
	return []malformedCase[R]{
		{path, "absent", func(r R) { *cmd(r) = nil }},
		{path + "[0]", "empty", func(r R) { *cmd(r) = []string{"", "a"} }},
		{path + "[1]", "NUL", func(r R) { *cmd(r) = []string{"a", "\x00"} }},
		{path + "[1]", "long", func(r R) { *cmd(r) = []string{"a", tooLong} }},
	}
}

func malformedExec() []malformedTable {
	type sync = *runtimeapi.ExecSyncRequest
	type exec = *runtimeapi.ExecRequest
	type attach = *runtimeapi.AttachRequest
	type forward = *runtimeapi.PortForwardRequest
	return []malformedTable{
		tableOf("ExecSync", func() sync {
			return &runtimeapi.ExecSyncRequest{ContainerId: "cccc", Cmd: []string{"sh", ""}, Timeout: 1}
		}, slices.Concat(
			badID("container_id", func(r sync) *string { return &r.ContainerId }, true),
			badCommands("cmd", func(r sync) *[]string { return &r.Cmd }),
			[]malformedCase[sync]{{"timeout", "negative", func(r sync) { r.Timeout = -1 }}})),
		tableOf("Exec", func() exec {
			return &runtimeapi.ExecRequest{ContainerId: "cccc", Cmd: []string{"sh"}, Stdin: true, Stdout: true, Tty: true}
		}, slices.Concat(
			badID("container_id", func(r exec) *string { return &r.ContainerId }, true),
			badCommands("cmd", func(r exec) *[]string { return &r.Cmd }),
			[]malformedCase[exec]{
				{"stderr", "with a terminal", func(r exec) { r.Stderr = true }},
				{"stdin", "nothing attached", func(r exec) { r.Stdin, r.Stdout = false, false }},
			})),
		tableOf("Attach", func() attach { return &runtimeapi.AttachRequest{ContainerId: "cccc", Stdin: true, Tty: true} }, slices.Concat(
			badID("container_id", func(r attach) *string { return &r.ContainerId }, true),
			[]malformedCase[attach]{
				{"stderr", "with a terminal", func(r attach) { r.Stderr = true }},
				{"stdin", "nothing attached", func(r attach) { r.Stdin = false }},
			})),
		tableOf("PortForward", func() forward { return &runtimeapi.PortForwardRequest{PodSandboxId: "aaaa", Port: []int32{80, 443}} }, slices.Concat(
			badID("pod_sandbox_id", func(r forward) *string { return &r.PodSandboxId }, true),
			[]malformedCase[forward]{
				{"port[1]", "zero", func(r forward) { r.Port[1] = 0 }},
				{"port[0]", "negative", func(r forward) { r.Port[0] = -80 }},
				{"port[0]", "large", func(r forward) { r.Port[0] = 65536 }},
				{"port", "many", func(r forward) { r.Port = slices.Repeat([]int32{80}, 65536) }},
			})),
	}
}

func malformedChanges() []malformedTable {
	type stop = *runtimeapi.StopContainerRequest
	type container = *runtimeapi.UpdateContainerResourcesRequest
	type pod = *runtimeapi.UpdatePodSandboxResourcesRequest
	resources := func() *runtimeapi.LinuxContainerResources { return goodContainerConfig().Linux.Resources }
	return []malformedTable{
		tableOf("StopContainer", func() stop { return &runtimeapi.StopContainerRequest{ContainerId: "c", Timeout: 1 << 62} }, slices.Concat(
			badID("container_id", func(r stop) *string { return &r.ContainerId }, true),
			[]malformedCase[stop]{{"timeout", "negative", func(r stop) { r.Timeout = -1 }}})),
		tableOf("UpdateContainerResources", func() container {
			return &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "c", Linux: resources()}
		}, slices.Concat(
			badID("container_id", func(r container) *string { return &r.ContainerId }, true),
			nested("linux", container.GetLinux, resourcesCases()),
			badLabels("annotations", func(r container, m map[string]string) { r.Annotations = m }),
			[]malformedCase[container]{{"linux", "absent", func(r container) { r.Linux = nil }}})),
		tableOf("UpdatePodSandboxResources", func() pod {
			return &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "p", Overhead: resources(), Resources: resources()}
		}, slices.Concat(
			badID("pod_sandbox_id", func(r pod) *string { return &r.PodSandboxId }, true),
			nested("overhead", pod.GetOverhead, resourcesCases()),
			nested("resources", pod.GetResources, resourcesCases()))),
	}
}

// nothingMalformed are RPCs whose requests have no field that could be.
func nothingMalformed() []malformedTable {
	tables := []malformedTable{tableOf("Version", func() *runtimeapi.VersionRequest { return &runtimeapi.VersionRequest{Version: kubeletAPIVersion} }, nil)}
	for rpc, request := range map[string]proto.Message{
		"Status": &runtimeapi.StatusRequest{Verbose: true}, "RuntimeConfig": &runtimeapi.RuntimeConfigRequest{}, "GetContainerEvents": &runtimeapi.GetEventsRequest{},
		"ListMetricDescriptors": &runtimeapi.ListMetricDescriptorsRequest{}, "ListPodSandboxMetrics": &runtimeapi.ListPodSandboxMetricsRequest{},
		"StreamPodSandboxMetrics": &runtimeapi.StreamPodSandboxMetricsRequest{}, "ImageFsInfo": &runtimeapi.ImageFsInfoRequest{},
	} {
		tables = append(tables, tableOf(rpc, func() proto.Message { return request }, nil))
	}
	return tables
}
