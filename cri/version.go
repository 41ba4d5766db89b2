package cri

import (
	"context"
	"regexp"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	runtimeName = "berth"
	// kubeletAPIVersion is the only value a kubelet accepts.
	kubeletAPIVersion = "0.1.0"
	runtimeAPIVersion = "v1"
)

// nodeHandlers answer the calls about the runtime itself.
type nodeHandlers struct {
	node         Node
	version      string
	cgroupDriver runtimeapi.CgroupDriver
}

// Version names the runtime.
func (h *nodeHandlers) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       runtimeName,
		RuntimeVersion:    h.version,
		RuntimeApiVersion: runtimeAPIVersion,
	}, nil
}

var semverPattern = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// semanticVersion makes v semver-compatible, as the CRI text demands and the
// kubelet checks: what is not becomes the build metadata of 0.0.0.
func semanticVersion(v string) string {
	v = strings.TrimPrefix(v, "v")
	if semverPattern.MatchString(v) {
		return v
	}
	build := strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') {
			return r
		}
		return '-'
	}, v)
	build = strings.Trim(build, ".")
	if build == "" {
		return "0.0.0"
	}
	return "0.0.0+" + strings.ReplaceAll(build, "..", ".")
}
