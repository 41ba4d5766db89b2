package stats

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadV1(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"cpuacct/pod/c/cpuacct.usage":         "123456789\n",
		"memory/pod/c/memory.usage_in_bytes":  "1000000\n",
		"memory/pod/c/memory.stat":            "rss 1\ntotal_rss 400000\ntotal_inactive_file 300000\ntotal_pgfault 55\ntotal_pgmajfault 5\ntotal_swap 7\nhierarchical_memory_limit 2000000\nhierarchical_memsw_limit 2500000\n",
		"pids/pod/c/pids.current":             "4\n",
		"cpuacct/free/cpuacct.usage":          "1\n",
		"memory/free/memory.usage_in_bytes":   "10\n",
		"memory/free/memory.stat":             "total_inactive_file 20\nhierarchical_memory_limit 9223372036854771712\n",
		"cpuacct/broken/cpuacct.usage":        "many\n",
		"memory/broken/memory.usage_in_bytes": "10\n",
		"memory/broken/memory.stat":           "",
	})
	r := NewReader(root)
	got, err := r.Read("/pod/c", Basic)
	if err != nil || got.Time.IsZero() {
		t.Fatalf("%+v, %v", got, err)
	}
	got.Time = time.Time{}
	want := Usage{
		CPU: 123456789, Memory: 1000000, WorkingSet: 700000, RSS: 400000, MemoryLimit: 2000000,
		PageFaults: 55, MajorPageFaults: 5, Swap: 7, SwapLimit: 500000, HasSwap: true, Processes: 4,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got, err = r.Read("free", Basic)
	if err != nil || got.MemoryLimit != NoLimit || got.SwapLimit != NoLimit || got.HasSwap || got.WorkingSet != 0 {
		t.Errorf("without limits: %+v, %v", got, err)
	}
	if _, err := r.Read("gone", Basic); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such cgroup: %v", err)
	}
	if _, err := r.Read("broken", Basic); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unreadable number: %v", err)
	}
}

func TestReadV2(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"cgroup.controllers":    "cpu memory\n",
		"c/cpu.stat":            "usage_usec 2000\nuser_usec 1500\n",
		"c/memory.current":      "1000\n",
		"c/memory.stat":         "anon 600\nfile 300\ninactive_file 100\npgfault 9\npgmajfault 3\nsock 12 strange\n",
		"c/memory.max":          "max\n",
		"c/memory.swap.current": "5\n",
		"c/memory.swap.max":     "50\n",
	})
	got, err := NewReader(root).Read("/c", Basic)
	if err != nil {
		t.Fatal(err)
	}
	got.Time = time.Time{}
	want := Usage{
		CPU: 2 * time.Millisecond, Memory: 1000, WorkingSet: 900, RSS: 600, MemoryLimit: NoLimit,
		PageFaults: 9, MajorPageFaults: 3, Swap: 5, SwapLimit: 50, HasSwap: true,
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestCgroupPath(t *testing.T) {
	for in, want := range map[string]string{
		"/kubepods/pod1/c":                       "/kubepods/pod1/c",
		"berth/c":                                "/berth/c",
		"kubepods-burstable-pod1.slice:berth:c1": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/berth-c1.scope",
		"system.slice:berth:c1":                  "/system.slice/berth-c1.scope",
		"-.slice:berth:c1":                       "/berth-c1.scope",
	} {
		if got := CgroupPath(in); got != want {
			t.Errorf("%s is at %s, want %s", in, got, want)
		}
	}
}

func TestParseInterfaces(t *testing.T) {
	const table = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  111       1    0    0    0     0          0         0      111       1    0    0    0     0       0          0
  eth0: 4096      10    2    4    0     0          0         0     8192      20    3    5    0     0       0          0
`
	got, err := parseInterfaces([]byte(table))
	want := []Interface{{Name: "eth0", RxBytes: 4096, RxPackets: 10, RxErrors: 2, RxDropped: 4, TxBytes: 8192, TxPackets: 20, TxErrors: 3, TxDropped: 5}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, broken := range map[string]string{"short": "eth0: 1 2 3\n", "word": "eth0: x 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"} {
		if _, err := parseInterfaces([]byte(broken)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := ReadInterfaces("/proc/self/net/dev"); err != nil {
		t.Error(err)
	}
}

func TestRate(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	var r Rate
	if _, known := r.Update(at(0), time.Second); known {
		t.Error("known with one reading")
	}
	if rate, known := r.Update(at(2*time.Second), 2*time.Second); !known || rate != 500_000_000 {
		t.Errorf("half a core is %d, %t", rate, known)
	}
	if rate, _ := r.Update(at(2*time.Second+10*time.Millisecond), 3*time.Second); rate != 500_000_000 {
		t.Errorf("a window that is too short gave %d", rate)
	}
	if rate, _ := r.Update(at(4*time.Second), 6*time.Second); rate != 2_000_000_000 {
		t.Errorf("two cores are %d", rate)
	}
	if _, known := r.Update(at(6*time.Second), time.Second); known {
		t.Error("known after the counter began anew")
	}
	var started Rate
	started.StartAt(start)
	if rate, known := started.Update(at(time.Second), 250*time.Millisecond); !known || rate != 250_000_000 {
		t.Errorf("since the start: %d, %t", rate, known)
	}
}
