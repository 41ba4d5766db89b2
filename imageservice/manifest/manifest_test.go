package manifest

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var someDigest = digest.FromString("x")

func index(platforms ...string) *ocispec.Index {
	x := &ocispec.Index{}
	for _, p := range platforms {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(p)}
		if p != "" {
			parts := append(strings.Split(p, "/"), "")
			d.Platform = &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		}
		x.Manifests = append(x.Manifests, d)
	}
	return x
}

func TestChoose(t *testing.T) {
	amd := func(variant string) ocispec.Platform {
		return ocispec.Platform{OS: "linux", Architecture: "amd64", Variant: variant}
	}
	arm := func(variant string) ocispec.Platform {
		return ocispec.Platform{OS: "linux", Architecture: "arm", Variant: variant}
	}
	all := []string{"windows/amd64", "linux/amd64", "linux/amd64/v3", "linux/amd64/v4", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "unknown/unknown"}
	for _, c := range []struct {
		index []string
		host  ocispec.Platform
		want  string
	}{
		{all, amd(""), "linux/amd64"}, {all, amd("v1"), "linux/amd64"}, {all, amd("v2"), "linux/amd64"}, {all, amd("v3"), "linux/amd64/v3"}, {all, amd("v4"), "linux/amd64/v4"},
		{all, arm("v6"), "linux/arm/v6"}, {all, arm("v7"), "linux/arm/v7"}, {all, arm("v8"), "linux/arm/v7"},
		{all, ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, "linux/arm64"},
		{all, ocispec.Platform{OS: "windows", Architecture: "amd64"}, "windows/amd64"},
		{[]string{"", "linux/amd64"}, amd("v1"), "linux/amd64"}, {[]string{"linux/s390x", ""}, amd("v1"), ""},
	} {
		d, err := Choose(index(c.index...), c.host)
		if err != nil || d.Digest != digest.FromString(c.want) {
			t.Errorf("%s of %q: %v, %v, want %q", Format(c.host), c.index, d.Platform, err, c.want)
		}
	}
	for text, list := range map[string][]string{"linux/arm64, linux/amd64/v4:": {"linux/arm64", "linux/amd64/v4", "unknown/unknown"}, "there are: none": {"unknown/unknown"}} {
		if _, err := Choose(index(list...), amd("v2")); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", list, err)
		}
	}
}

func TestHostRunsItself(t *testing.T) {
	h := Host()
	if err := CheckPlatform(ocispec.Image{Platform: h}, h); err != nil {
		t.Error(err)
	}
	if err := CheckPlatform(ocispec.Image{}, h); err != nil {
		t.Error(err)
	}
	if err := CheckPlatform(ocispec.Image{Platform: ocispec.Platform{OS: "plan9", Architecture: "z80"}}, h); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		layers  int
	}{
		"not JSON": {"x", 0}, "list": {"[]", 0}, "count": {`{"rootfs":{"diff_ids":[]}}`, 1},
		"digest":    {`{"rootfs":{"diff_ids":["sha256:../../x"]}}`, 1},
		"algorithm": {`{"rootfs":{"diff_ids":["md5:d41d8cd98f00b204e9800998ecf8427e"]}}`, 1},
		"types":     {`{"config":{"Env":"A=b"}}`, 0},
	} {
		if _, err := ParseConfig([]byte(c.content), c.layers); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	m := ocispec.Manifest{Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: someDigest}, Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: someDigest}}}
	for _, v := range []any{m, index("linux/amd64", "", "linux/arm64/v8")} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "")
		f.Add(b, dockerList)
	}
	f.Fuzz(func(t *testing.T, content []byte, mediaType string) {
		d, err := Parse(content, mediaType)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		if (d.Index == nil) == (d.Image == nil) {
			t.Fatal("neither or both")
		}
		if d.Index != nil {
			_, _ = Choose(d.Index, Host())
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"rootfs":{"diff_ids":["`+someDigest.String()+`"]}}`), 1)
	f.Fuzz(func(t *testing.T, content []byte, layers int) {
		c, err := ParseConfig(content, layers)
		if err == nil && len(c.DiffIDs) != layers {
			t.Fatal(len(c.DiffIDs))
		}
		_ = CheckPlatform(c.Image, Host())
	})
}
