package manifest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/cpu"
)

// Host is the platform of this node.
func Host() ocispec.Platform {
	p := ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	switch p.Architecture {
	case "arm64":
		p.Variant = "v8"
	case "arm":
		p.Variant = "v7"
	case "amd64":
		p.Variant = amd64Level()
	}
	return p
}

// amd64Level is the microarchitecture level, without which an image built for a
// higher one would die of illegal instructions.
func amd64Level() string {
	x := cpu.X86
	switch {
	case !x.HasSSE3 || !x.HasSSSE3 || !x.HasSSE41 || !x.HasSSE42 || !x.HasPOPCNT:
		return "v1"
	case !x.HasAVX || !x.HasAVX2 || !x.HasBMI1 || !x.HasBMI2 || !x.HasFMA:
		return "v2"
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512CD || !x.HasAVX512DQ || !x.HasAVX512VL:
		return "v3"
	}
	return "v4"
}

// rank tells how well an image for p runs on host: -1 not at all, the higher the
// better.
func rank(p, host ocispec.Platform) int {
	if p.OS != host.OS || p.Architecture != host.Architecture {
		return -1
	}
	want, have := level(p), level(host)
	if have == 0 {
		have = 1 << 10 // a caller that names no variant runs any
		if host.Architecture == "amd64" {
			have = 1
		}
	}
	if want > have {
		return -1
	}
	return want
}

// level reads the number of a variant; none is the architecture's first.
func level(p ocispec.Platform) int {
	var n int
	if _, err := fmt.Sscanf(p.Variant, "v%d", &n); err == nil {
		return n
	}
	switch p.Architecture {
	case "amd64":
		return 1
	case "arm64":
		return 8
	}
	return 0
}

// Choose picks the manifest of an index that suits host best. Without any the
// error is errdefs.ErrNotFound and lists the platforms that there are.
func Choose(index *ocispec.Index, host ocispec.Platform) (ocispec.Descriptor, error) {
	best, bestRank := -1, -1
	var there []string
	for i, m := range index.Manifests {
		if m.Platform == nil {
			// A nested index, or a manifest whose config will tell.
			if best < 0 && (known(m.MediaType) || m.MediaType == "") {
				best = i
			}
			continue
		}
		if m.Platform.OS == "unknown" {
			continue // attestations
		}
		if p := Format(*m.Platform); !slices.Contains(there, p) {
			there = append(there, p)
		}
		if r := rank(*m.Platform, host); r > bestRank {
			best, bestRank = i, r
		}
	}
	if best < 0 {
		if len(there) == 0 {
			there = []string{"none"}
		}
		return ocispec.Descriptor{}, fmt.Errorf("no image for %s in the index, there are: %s: %w", Format(host), strings.Join(there, ", "), errdefs.ErrNotFound)
	}
	return index.Manifests[best], nil
}

// CheckPlatform refuses a configuration for another platform than host. One that
// does not say is accepted.
func CheckPlatform(config ocispec.Image, host ocispec.Platform) error {
	if config.OS == "" || config.Architecture == "" || rank(config.Platform, host) >= 0 {
		return nil
	}
	return fmt.Errorf("the image is for %s, this node is %s: %w", Format(config.Platform), Format(host), errdefs.ErrNotFound)
}

// Format writes a platform the way Docker does.
func Format(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" && (p.Architecture != "amd64" || p.Variant != "v1") {
		s += "/" + p.Variant
	}
	return s
}
