package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func checkSandboxFilter(f *runtimeapi.PodSandboxFilter) error {
	return first(
		optionalID("filter.id", f.GetId()),
		enum("filter.state.state", f.GetState().GetState()),
		labels("filter.label_selector", f.GetLabelSelector()),
	)
}

func checkContainerFilter(f *runtimeapi.ContainerFilter) error {
	return first(
		optionalID("filter.id", f.GetId()),
		enum("filter.state.state", f.GetState().GetState()),
		optionalID("filter.pod_sandbox_id", f.GetPodSandboxId()),
		labels("filter.label_selector", f.GetLabelSelector()),
	)
}

func checkContainerStatsFilter(f *runtimeapi.ContainerStatsFilter) error {
	return first(
		optionalID("filter.id", f.GetId()),
		optionalID("filter.pod_sandbox_id", f.GetPodSandboxId()),
		labels("filter.label_selector", f.GetLabelSelector()),
	)
}

func checkSandboxStatsFilter(f *runtimeapi.PodSandboxStatsFilter) error {
	return first(
		optionalID("filter.id", f.GetId()),
		labels("filter.label_selector", f.GetLabelSelector()),
	)
}
