package server

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestLimitHugepages(t *testing.T) {
	for name, test := range map[string]struct {
		controller, file string
	}{
		"v1": {"hugetlb", "hugetlb.2MB.limit_in_bytes"},
		"v2": {"", "hugetlb.2MB.max"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), test.file)
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			paths := map[string]string{"": "/nowhere"} // as on a hybrid host
			paths[test.controller] = filepath.Dir(file)
			if err := limitHugepages(paths, []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}); err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(file); err != nil || string(data) != "4194304" {
				t.Errorf("the limit is %q, %v", data, err)
			}
		})
	}
	if err := limitHugepages(nil, []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}); err != nil {
		t.Errorf("without the controller: %v", err)
	}
}

// The pipes of a container in a user namespace belong to its root.
func TestOwnerOfPipes(t *testing.T) {
	x := &external{spec: &specs.Spec{Linux: &specs.Linux{
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 5, Size: 1}, {ContainerID: 0, HostID: 65536, Size: 1000}},
	}}}
	if uid, gid, err := x.owner(); uid != 65536 || gid != 0 || err != nil {
		t.Errorf("owner is %d:%d, %v", uid, gid, err)
	}
}

// Annotations of the request stay as they are: others share them.
func TestWithoutSubgroup(t *testing.T) {
	asked := map[string]string{"a": "1", crunSubgroup: "container"}
	got := withoutSubgroup(asked)
	same(t, "the subgroup", got[crunSubgroup], "")
	same(t, "another annotation", got["a"], "1")
	same(t, "the request", asked[crunSubgroup], "container")
	if sub, ok := withoutSubgroup(nil)[crunSubgroup]; !ok || sub != "" {
		t.Error("it is not said without annotations")
	}
}
