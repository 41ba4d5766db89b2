package main

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice/spec"
)

func TestSpecDefaults(t *testing.T) {
	got := specDefaults(config.Runtime{
		Capabilities:        []string{},
		Env:                 map[string]string{"B": "2", "A": "x=y"},
		Rlimits:             map[string]config.Rlimit{"RLIMIT_NOFILE": {Soft: 1024, Hard: config.Unlimited}, "RLIMIT_CORE": {}},
		PidsLimit:           7,
		UnsetSeccompProfile: config.SeccompRuntimeDefault,
	})
	want := spec.Defaults{
		Capabilities: []string{},
		Env:          []string{"A=x=y", "B=2"},
		Rlimits: []specs.POSIXRlimit{
			{Type: "RLIMIT_CORE"},
			{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: math.MaxUint64},
		},
		PidsLimit:    7,
		SeccompUnset: spec.SeccompRuntimeDefault,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// The configuration's default is what the specification's package takes where
// it is told nothing.
func TestDefaultConfigurationIsTheSpecificationsOwn(t *testing.T) {
	got := specDefaults(config.Default().Runtime)
	own := spec.DefaultCapabilities()
	slices.Sort(own)
	want := spec.Defaults{Capabilities: own}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPlatform(t *testing.T) {
	for name, want := range map[string]*ocispec.Platform{
		"":               nil,
		"linux/amd64":    {OS: "linux", Architecture: "amd64"},
		"linux/arm64/v8": {OS: "linux", Architecture: "arm64", Variant: "v8"},
	} {
		if got := platform(name); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", name, got, want)
		}
	}
}

// A key that nothing reads would be a promise to the operator that is not kept.
func TestEveryKeyIsUsed(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	for _, k := range config.Keys() {
		if k.Path == "apiVersion" || k.Path == "kind" {
			continue // read by package config
		}
		// The field behind its section, or behind the variable for it.
		field := k.Path[strings.LastIndex(k.Path, ".")+1:]
		section, _, nested := strings.Cut(k.Path, ".")
		pattern := `\bcfg\.` + exported(field) + `\b`
		if strings.Count(k.Path, ".") > 1 {
			pattern = `\w\.` + exported(field) + `\b` // a section within one, behind a variable of any name
		} else if nested {
			pattern += `|\.` + exported(section) + `\.` + exported(field) + `\b`
		}
		if !regexp.MustCompile("(?i)" + pattern).MatchString(source.String()) {
			t.Errorf("nothing reads %s: no %s in %v", k.Path, pattern, files)
		}
	}
}

// exported is a key's name as a field's.
func exported(key string) string { return strings.ToUpper(key[:1]) + key[1:] }
