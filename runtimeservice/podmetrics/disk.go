package podmetrics

import (
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/stats"
)

var diskMetrics = []metric{
	filesystem("container_fs_usage_bytes", "Bytes written to the container's own layer.",
		func(f *Filesystem) uint64 { return f.Used }),
	filesystem("container_fs_limit_bytes", "Size of the file system that the layer is on, in bytes.",
		func(f *Filesystem) uint64 { return f.Limit }),
	filesystem("container_fs_inodes_total", "Inodes of that file system.",
		func(f *Filesystem) uint64 { return f.Inodes }),
	filesystem("container_fs_inodes_free", "Inodes of that file system that are free.",
		func(f *Filesystem) uint64 { return f.InodesFree }),
	disk("container_fs_reads_bytes_total", "Bytes read from the device.",
		func(d *stats.Disk) uint64 { return d.ReadBytes }),
	disk("container_fs_reads_total", "Reads from the device.",
		func(d *stats.Disk) uint64 { return d.Reads }),
	disk("container_fs_writes_bytes_total", "Bytes written to the device.",
		func(d *stats.Disk) uint64 { return d.WrittenBytes }),
	disk("container_fs_writes_total", "Writes to the device.",
		func(d *stats.Disk) uint64 { return d.Writes }),
	cost("container_fs_io_cost_usage_seconds_total", "Device time used by I/O, in seconds.",
		func(d *stats.Disk) time.Duration { return d.CostUsage }),
	cost("container_fs_io_cost_wait_seconds_total", "Time for which I/O waited for its share, in seconds.",
		func(d *stats.Disk) time.Duration { return d.CostWait }),
	cost("container_fs_io_cost_indebt_seconds_total", "Time for which I/O was done on credit, in seconds.",
		func(d *stats.Disk) time.Duration { return d.CostIndebt }),
	cost("container_fs_io_cost_indelay_seconds_total", "Time for which tasks were delayed to pay for I/O, in seconds.",
		func(d *stats.Disk) time.Duration { return d.CostIndelay }),
	{
		name: "container_blkio_device_usage_total", help: "Bytes moved on a device, by operation.", kind: counter,
		labels: []string{"device", "major", "minor", "operation"},
		sample: func(s *Subject, add sampler) {
			for i := range s.Usage.Details.Disks {
				d := &s.Usage.Details.Disks[i]
				major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
				for _, o := range []struct {
					name  string
					bytes uint64
				}{
					{"Read", d.ReadBytes}, {"Write", d.WrittenBytes}, {"Discard", d.DiscardedBytes},
					{"Sync", d.SyncBytes}, {"Async", d.AsyncBytes},
				} {
					add(o.bytes, d.Device, major, minor, o.name)
				}
			}
		},
	},
}

func filesystem(name, help string, value func(*Filesystem) uint64) metric {
	return metric{name: name, help: help, kind: runtimeapi.MetricType_GAUGE, labels: []string{"device"}, sample: func(s *Subject, add sampler) {
		if s.Filesystem != nil {
			add(value(s.Filesystem), s.Filesystem.Device)
		}
	}}
}

func disk(name, help string, value func(*stats.Disk) uint64) metric {
	return metric{name: name, help: help, kind: counter, labels: []string{"device"}, sample: func(s *Subject, add sampler) {
		for i := range s.Usage.Details.Disks {
			add(value(&s.Usage.Details.Disks[i]), s.Usage.Details.Disks[i].Device)
		}
	}}
}

func cost(name, help string, value func(*stats.Disk) time.Duration) metric {
	return disk(name, help, func(d *stats.Disk) uint64 { return seconds(value(d)) }).
		on(func(f stats.Features) bool { return f.IOCost })
}
