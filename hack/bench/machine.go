package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userHz is the unit of /proc/stat: the kernel shows user space 100 ticks a second on
// every architecture that Go runs on.
const userHz = 100

// cpuBusy is the time that all processors together have been busy since boot
// (user, nice, system, irq, softirq of proc_stat(5)).
func cpuBusy() time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		panic(err) // no /proc: nothing here can be measured
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHz
}

// pss sums the proportional set size of all processes of these kinds, in MiB.
func pss(kinds []string) (float64, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	var kib float64
	for _, dir := range dirs {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it ended
		}
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !isOneOf(kinds, strings.TrimSpace(string(comm)), string(args)) {
			continue
		}
		rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
		if err != nil {
			continue
		}
		kib += pssOf(rollup)
	}
	return kib / 1024, nil
}

// isOneOf tells whether a process is of one of the kinds, each NAME or NAME@TEXT: its name,
// compared as the kernel keeps it, cut to 15 bytes, and a text that its command line holds.
func isOneOf(kinds []string, comm, args string) bool {
	for _, kind := range kinds {
		name, text, _ := strings.Cut(kind, "@")
		if name[:min(len(name), 15)] == comm && strings.Contains(args, text) {
			return true
		}
	}
	return false
}

func pssOf(rollup []byte) float64 {
	for lines := bufio.NewScanner(bytes.NewReader(rollup)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "Pss:" {
			kib, _ := strconv.ParseFloat(fields[1], 64)
			return kib
		}
	}
	return 0
}

// machine describes what was measured on, in one line.
func machine() string {
	var uts unix.Utsname
	unix.Uname(&uts)
	var info unix.Sysinfo_t
	unix.Sysinfo(&info)
	cgroup := "cgroup v1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroup = "cgroup v2"
	}
	return fmt.Sprintf("%d cores (%s), %d GiB, Linux %s, %s", runtime.NumCPU(), cpuModel(),
		(uint64(info.Totalram)*uint64(info.Unit)+1<<29)>>30, unix.ByteSliceToString(uts.Release[:]), cgroup)
}

func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// The machine is quiet when it was busy for less than quietShare of one core in each
// of quietFor seconds. One that never is, is measured as it is after quietMost of them.
const (
	quietShare = 0.1
	quietFor   = 3
	quietMost  = 20
)

// awaitQuiet waits until everything written so far is on the disk and nothing goes on
// in the background.
func awaitQuiet() {
	unix.Sync()
	for calm, waited := 0, 0; calm < quietFor && waited < quietMost; waited++ {
		busy := cpuBusy()
		time.Sleep(time.Second)
		if calm++; (cpuBusy() - busy).Seconds() > quietShare {
			calm = 0
		}
	}
	unix.Sync()
}

// warmBytes is more than a pull takes of the page cache.
const warmBytes = 2 << 30

// warmMemory sees to it that there is free memory that was used a moment ago. A virtual
// machine may have given back to its host what has been free for seconds, and to get it
// again takes longer than to write a file into it: pulls of the same image would differ by
// half of their time.
func warmMemory() error {
	memory, err := unix.Mmap(-1, 0, warmBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("warm %d bytes of memory: %w", warmBytes, err)
	}
	return unix.Munmap(memory)
}
