package stats

import (
	"bytes"
	"fmt"
	"time"
)

// disksV1 reads what the throttling of version 1 counts: all I/O, whichever
// scheduler a disk has.
func (r *Reader) disksV1(f *files) []Disk {
	var disks []Disk
	f.eachDiskV1("blkio.throttle.io_service_bytes_recursive", func(major, minor uint64, operation string, n uint64) {
		d := r.disk(&disks, major, minor)
		switch operation {
		case "Read":
			d.ReadBytes = n
		case "Write":
			d.WrittenBytes = n
		case "Sync":
			d.SyncBytes = n
		case "Async":
			d.AsyncBytes = n
		case "Discard":
			d.DiscardedBytes = n
		}
	})
	f.eachDiskV1("blkio.throttle.io_serviced_recursive", func(major, minor uint64, operation string, n uint64) {
		d := r.disk(&disks, major, minor)
		switch operation {
		case "Read":
			d.Reads = n
		case "Write":
			d.Writes = n
		}
	})
	sortDisks(disks)
	return disks
}

// eachDiskV1 hands the lines such as "8:0 Read 4096".
func (f *files) eachDiskV1(name string, each func(major, minor uint64, operation string, n uint64)) {
	raw, _ := f.read("blkio", name)
	for line := range bytes.Lines(raw) {
		fields := bytes.Fields(line)
		if len(fields) != 3 {
			continue // the total of all disks
		}
		major, minor, ok := diskNumber(fields[0])
		n, valid := number(fields[2])
		if ok && valid {
			each(major, minor, string(fields[1]), n)
		}
	}
}

// disksV2 reads lines such as "8:0 rbytes=4096 wbytes=0 rios=1 wios=0".
func (r *Reader) disksV2(f *files) []Disk {
	var disks []Disk
	raw, _ := f.read("", "io.stat")
	for line := range bytes.Lines(raw) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		major, minor, ok := diskNumber(fields[0])
		if !ok {
			continue
		}
		d := r.disk(&disks, major, minor)
		for _, field := range fields[1:] {
			key, value, _ := bytes.Cut(field, []byte{'='})
			if n, ok := number(value); ok {
				d.set(string(key), n)
			}
		}
	}
	sortDisks(disks)
	return disks
}

func (d *Disk) set(key string, n uint64) {
	switch key {
	case "rbytes":
		d.ReadBytes = n
	case "wbytes":
		d.WrittenBytes = n
	case "dbytes":
		d.DiscardedBytes = n
	case "rios":
		d.Reads = n
	case "wios":
		d.Writes = n
	case "cost.usage":
		d.CostUsage = time.Duration(n) * time.Microsecond
	case "cost.wait":
		d.CostWait = time.Duration(n) * time.Microsecond
	case "cost.indebt":
		d.CostIndebt = time.Duration(n) * time.Microsecond
	case "cost.indelay":
		d.CostIndelay = time.Duration(n) * time.Microsecond
	}
}

// diskNumber parses 8:0.
func diskNumber(raw []byte) (major, minor uint64, ok bool) {
	a, b, found := bytes.Cut(raw, []byte{':'})
	major, ok = number(a)
	minor, valid := number(b)
	return major, minor, found && ok && valid
}

// disk returns the disk of that number, which is in disks from then on.
func (r *Reader) disk(disks *[]Disk, major, minor uint64) *Disk {
	for i := range *disks {
		if d := &(*disks)[i]; d.Major == major && d.Minor == minor {
			return d
		}
	}
	*disks = append(*disks, Disk{Device: r.DeviceName(major, minor), Major: major, Minor: minor})
	return &(*disks)[len(*disks)-1]
}

// DeviceName is the path of a block device, or its number where the kernel has
// no name for it, as for the file systems that have no disk.
func (r *Reader) DeviceName(major, minor uint64) string {
	key := [2]uint64{major, minor}
	if name, ok := r.disks.Load(key); ok {
		return name.(string)
	}
	id := formatNumber(major) + ":" + formatNumber(minor)
	name := id
	raw, err := readFile(fmt.Sprintf("/sys/dev/block/%s/uevent", id))
	for line := range bytes.Lines(raw) {
		if device, ok := bytes.CutPrefix(line, []byte("DEVNAME=")); ok {
			name = "/dev/" + string(bytes.TrimSpace(device))
		}
	}
	if err == nil { // a disk that comes later gets its name then
		r.disks.Store(key, name)
	}
	return name
}
