package stats

// hugepageFiles names the files of a page size; maximum is empty where there is
// none.
type hugepageFiles func(size string) (used, maximum string)

func hugepageFilesV1(size string) (used, maximum string) {
	return "hugetlb." + size + ".usage_in_bytes", "hugetlb." + size + ".max_usage_in_bytes"
}

// hugepageFilesV2: version 2 does not keep the greatest usage.
func hugepageFilesV2(size string) (used, maximum string) {
	return "hugetlb." + size + ".current", ""
}

func (f *files) hugepages(sizes []string, names hugepageFiles) []Hugepages {
	var all []Hugepages
	for _, size := range sizes {
		used, maximum := names(size)
		raw, ok := f.read("hugetlb", used)
		if !ok {
			continue // the controller is not enabled for this cgroup
		}
		h := Hugepages{Size: size, Used: f.parse(used, raw)}
		if maximum != "" {
			h.Max = f.optional("hugetlb", maximum)
		}
		all = append(all, h)
	}
	return all
}
