package stats

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Features says what the cgroups of a node can tell.
type Features struct {
	// Unified: all controllers are those of version 2.
	Unified bool
	// Pressure stall information of each cgroup.
	Pressure bool
	// Hugepages are the sizes that are counted, as in "2MB".
	Hugepages []string
	// IOCost: the kernel shares out I/O by cost (io.cost.qos, version 2).
	IOCost bool
}

// hybridMount is where the hierarchy of version 2 is on a node whose controllers
// are those of version 1.
const hybridMount = "unified"

func detect(root string) Features {
	f := Features{Unified: exists(filepath.Join(root, "cgroup.controllers"))}
	unified := root
	if !f.Unified {
		unified = filepath.Join(root, hybridMount)
	}
	// The file can be there and refuse to be read: the kernel was told psi=0.
	_, err := readFile(filepath.Join(unified, "cpu.pressure"))
	f.Pressure = err == nil
	f.Hugepages = hugepageSizes(root, f.Unified)
	qos, err := os.ReadFile(filepath.Join(root, "io.cost.qos"))
	f.IOCost = err == nil && bytes.Contains(qos, []byte("enable=1"))
	return f
}

// kernelHugepages has a directory for each size.
const kernelHugepages = "/sys/kernel/mm/hugepages"

// hugepageSizes are nil where the controller is missing.
func hugepageSizes(root string, unified bool) []string {
	if unified {
		controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil || !slices.Contains(strings.Fields(string(controllers)), "hugetlb") {
			return nil
		}
	} else if !exists(filepath.Join(root, "hugetlb")) {
		return nil
	}
	entries, err := os.ReadDir(kernelHugepages)
	if err != nil {
		return nil
	}
	var sizes []string
	for _, entry := range entries {
		if size, ok := hugepageSize(entry.Name()); ok {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// hugepageSize is the size in the names of a cgroup's files, of the name of the
// kernel's directory: 2MB of hugepages-2048kB.
func hugepageSize(dir string) (string, bool) {
	kilobytes, ok := strings.CutPrefix(dir, "hugepages-")
	if !ok {
		return "", false
	}
	kilobytes, ok = strings.CutSuffix(kilobytes, "kB")
	n, valid := number([]byte(kilobytes))
	if !ok || !valid || n == 0 {
		return "", false
	}
	units := []string{"KB", "MB", "GB"}
	for len(units) > 1 && n%1024 == 0 {
		n, units = n/1024, units[1:]
	}
	return formatNumber(n) + units[0], true
}
