package stats

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"
)

func TestReadV1InFull(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		// Version 2 beside version 1, for pressure.
		"unified/cpu.pressure":      "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
		"unified/c/cpu.pressure":    "some avg10=1.50 avg60=0.25 avg300=0.10 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
		"unified/c/memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",

		"cpuacct/c/cpuacct.usage":                           "5000000000\n",
		"cpuacct/c/cpuacct.stat":                            "user 300\nsystem 150\n",
		"cpu/c/cpu.stat":                                    "nr_periods 10\nnr_throttled 4\nthrottled_time 3000000000\nnr_bursts 2\nburst_time 1000000000\n",
		"cpu/c/cpu.shares":                                  "512\n",
		"cpu/c/cpu.cfs_period_us":                           "100000\n",
		"cpu/c/cpu.cfs_quota_us":                            "50000\n",
		"memory/c/memory.stat":                              "total_cache 9\ntotal_mapped_file 8\ntotal_active_file 7\ntotal_inactive_file 6\ntotal_dirty 5\ntotal_writeback 4\ntotal_workingset_refault_file 3\ntotal_workingset_refault_anon 2\nhierarchical_memory_limit 2000000\nhierarchical_memsw_limit 2500000\n",
		"memory/c/memory.failcnt":                           "11\n",
		"memory/c/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 12\n",
		"memory/c/memory.usage_in_bytes":                    "100\n",
		"memory/c/memory.max_usage_in_bytes":                "200\n",
		"memory/c/memory.kmem.usage_in_bytes":               "30\n",
		"memory/c/memory.soft_limit_in_bytes":               "9223372036854771712\n",
		"pids/c/pids.current":                               "4\n",
		"pids/c/pids.max":                                   "max\n",
		"blkio/c/blkio.throttle.io_service_bytes_recursive": "999:7 Read 4096\n999:7 Write 8192\n999:7 Sync 1\n999:7 Async 2\n999:7 Discard 3\n999:7 Total 12288\nTotal 12288\n",
		"blkio/c/blkio.throttle.io_serviced_recursive":      "999:7 Read 1\n999:7 Write 2\nTotal 3\n",
	})
	r := NewReader(root)
	got, err := r.Read("c", Full)
	if err != nil {
		t.Fatal(err)
	}
	want := Details{
		UserCPU: 3 * time.Second, SystemCPU: 1500 * time.Millisecond,
		Periods: 10, ThrottledPeriods: 4, BurstPeriods: 2, Throttled: 3 * time.Second, Burst: time.Second,
		CPUShares: 512, CPUPeriod: 100 * time.Millisecond, CPUQuota: 50 * time.Millisecond,
		Cache: 9, MappedFile: 8, ActiveFile: 7, InactiveFile: 6, DirtyFile: 5, WritebackFile: 4, RefaultsFile: 3, RefaultsAnon: 2,
		MaxMemory: 200, KernelMemory: 30, MemoryFailures: 11, OOMKills: 12, MemorySwapSpecLimit: 2500000, MaxThreads: NoLimit,
		Disks: []Disk{{
			Device: "999:7", Major: 999, Minor: 7, ReadBytes: 4096, WrittenBytes: 8192, DiscardedBytes: 3, SyncBytes: 1, AsyncBytes: 2, Reads: 1, Writes: 2,
		}},
	}
	if !reflect.DeepEqual(*got.Details, want) {
		t.Errorf("got  %+v\nwant %+v", *got.Details, want)
	}
	pressure := &Pressure{
		Some: Stall{Total: 2 * time.Second, Avg10: 1.5, Avg60: 0.25, Avg300: 0.1},
		Full: Stall{Total: 7 * time.Microsecond},
	}
	if !reflect.DeepEqual(got.CPUPressure, pressure) || got.MemoryPressure == nil || got.IOPressure != nil {
		t.Errorf("pressure %+v, %+v, %+v", got.CPUPressure, got.MemoryPressure, got.IOPressure)
	}
	if basic, err := r.Read("c", Basic); err != nil || basic.Details != nil || basic.CPUPressure == nil {
		t.Errorf("basic: %+v, %v", basic, err)
	}
	if f := r.Features(); f.Unified || !f.Pressure || f.IOCost {
		t.Errorf("features %+v", f)
	}
}

func TestReadV2InFull(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"cgroup.controllers": "cpu memory io hugetlb\n",
		"io.cost.qos":        "8:0 enable=1 ctrl=auto rpct=0.00\n",
		"cpu.pressure":       "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
		"c/cpu.stat":         "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 3000000\nnr_bursts 2\nburst_usec 1000000\n",
		"c/cpu.weight":       "100\n",
		"c/cpu.max":          "max 100000\n",
		"c/cpu.pressure":     "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n",
		"c/memory.current":   "1000\n",
		"c/memory.peak":      "2000\n",
		"c/memory.min":       "300\n",
		"c/memory.max":       "4000\n",
		"c/memory.stat":      "anon 600\nfile 300\nkernel 50\ninactive_file 100\nactive_file 90\nfile_mapped 80\nfile_dirty 70\nfile_writeback 60\npgscan 5\npgsteal 4\nworkingset_refault_file 3\nworkingset_refault_anon 2\n",
		"c/memory.events":    "low 0\nhigh 7\nmax 8\noom 9\noom_kill 6\n",
		"c/pids.current":     "4\n",
		"c/pids.max":         "32\n",
		"c/io.stat":          "999:8 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=2000000 cost.wait=1000000\n999:7 rbytes=9\n",
	})
	r := NewReader(root)
	got, err := r.Read("c", Full)
	if err != nil {
		t.Fatal(err)
	}
	want := Details{
		UserCPU: 3 * time.Second, SystemCPU: 2 * time.Second,
		Periods: 10, ThrottledPeriods: 4, BurstPeriods: 2, Throttled: 3 * time.Second, Burst: time.Second,
		CPUShares: 2597, CPUPeriod: 100 * time.Millisecond,
		Cache: 300, MappedFile: 80, ActiveFile: 90, InactiveFile: 100, DirtyFile: 70, WritebackFile: 60, RefaultsFile: 3, RefaultsAnon: 2,
		PagesScanned: 5, PagesStolen: 4, MaxMemory: 2000, KernelMemory: 50,
		MemoryFailures: 8, HighEvents: 7, OOMKills: 6, MemoryReservation: 300, MemorySwapSpecLimit: NoLimit, MaxThreads: 32,
		Disks: []Disk{
			{Device: "999:7", Major: 999, Minor: 7, ReadBytes: 9},
			{Device: "999:8", Major: 999, Minor: 8, ReadBytes: 1, WrittenBytes: 2, Reads: 3, Writes: 4, DiscardedBytes: 5, CostUsage: 2 * time.Second, CostWait: time.Second},
		},
	}
	if !reflect.DeepEqual(*got.Details, want) {
		t.Errorf("got  %+v\nwant %+v", *got.Details, want)
	}
	if got.CPUPressure == nil || got.CPUPressure.Full.Total != 4*time.Microsecond || got.MemoryPressure != nil {
		t.Errorf("pressure %+v, %+v", got.CPUPressure, got.MemoryPressure)
	}
	if f := r.Features(); !f.Unified || !f.Pressure || !f.IOCost {
		t.Errorf("features %+v", f)
	}
}

func TestHugepages(t *testing.T) {
	for dir, want := range map[string]string{
		"hugepages-2048kB": "2MB", "hugepages-1048576kB": "1GB", "hugepages-64kB": "64KB", "hugepages-kB": "", "other": "", "hugepages-2048": "",
	} {
		if got, _ := hugepageSize(dir); got != want {
			t.Errorf("%s is %q, want %q", dir, got, want)
		}
	}
	root := t.TempDir()
	write(t, root, map[string]string{
		"hugetlb/c/hugetlb.2MB.usage_in_bytes":     "2097152\n",
		"hugetlb/c/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
		"v2/hugetlb.2MB.current":                   "6291456\n",
	})
	f := files{dir: func(controller string) string { return filepath.Join(root, controller, "c") }}
	if got := f.hugepages([]string{"2MB", "1GB"}, hugepageFilesV1); f.err != nil || !slices.Equal(got, []Hugepages{{"2MB", 2 << 20, 4 << 20}}) {
		t.Errorf("version 1: %v, %v", got, f.err)
	}
	f = files{dir: func(string) string { return filepath.Join(root, "v2") }}
	if got := f.hugepages([]string{"2MB", "1GB"}, hugepageFilesV2); f.err != nil || !slices.Equal(got, []Hugepages{{Size: "2MB", Used: 6 << 20}}) {
		t.Errorf("version 2: %v, %v", got, f.err)
	}
}

func TestAddUsage(t *testing.T) {
	one := Usage{
		CPU: 1, CPUPressure: &Pressure{}, MemoryLimit: NoLimit,
		Details: &Details{Cache: 1, MaxThreads: 5, Disks: []Disk{{Device: "a", Major: 1, ReadBytes: 10}}, Hugepages: []Hugepages{{Size: "2MB", Used: 1}}},
	}
	two := Usage{
		CPU: 2, MemoryLimit: 7,
		Details: &Details{Cache: 2, MaxThreads: NoLimit, Disks: []Disk{{Device: "b", Major: 2, ReadBytes: 1}, {Device: "a", Major: 1, ReadBytes: 5, Writes: 1}}, Hugepages: []Hugepages{{Size: "2MB", Used: 2}}},
	}
	var sum Usage
	sum.Add(one)
	sum.Add(two)
	want := Details{Cache: 3, MaxThreads: NoLimit, Disks: []Disk{{Device: "a", Major: 1, ReadBytes: 15, Writes: 1}, {Device: "b", Major: 2, ReadBytes: 1}}, Hugepages: []Hugepages{{Size: "2MB", Used: 3}}}
	if sum.CPU != 3 || sum.MemoryLimit != NoLimit || sum.CPUPressure != nil || !reflect.DeepEqual(*sum.Details, want) {
		t.Errorf("sum %+v with %+v", sum, sum.Details)
	}
	if one.Details.Cache != 1 || one.Details.Disks[0].ReadBytes != 10 {
		t.Errorf("a summand was changed: %+v", one.Details)
	}
}

func TestReadProcesses(t *testing.T) {
	root := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write(t, root, map[string]string{
		"memory/c/cgroup.procs":       strconv.Itoa(os.Getppid()) + "\n999999999\n",
		"memory/c/below/cgroup.procs": strconv.Itoa(os.Getpid()) + "\n",
	})
	r := NewReader(root)
	got, err := r.ReadProcesses("/c", os.Getpid())
	if err != nil || got.Count != 2 || got.FileDescriptors < 6 || got.Sockets < 1 || !got.HasLimits || got.OpenFilesLimit == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.ReadProcesses("/gone", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such cgroup: %v", err)
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]uint64{"0": 0, "42": 42, "18446744073709551615": 1<<64 - 1} {
		if n, ok := number([]byte(text)); !ok || n != want {
			t.Errorf("%s is %d, %t", text, n, ok)
		}
	}
	for _, text := range []string{"", "-1", "1 ", "18446744073709551616", "99999999999999999999999", "max"} {
		if n, ok := number([]byte(text)); ok {
			t.Errorf("%q is %d", text, n)
		}
	}
}
