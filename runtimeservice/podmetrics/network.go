package podmetrics

import "github.com/berth-cri/berth/runtimeservice/stats"

var networkMetrics = []metric{
	network("container_network_receive_bytes_total", "Bytes received.", func(i *stats.Interface) uint64 { return i.RxBytes }),
	network("container_network_receive_packets_total", "Packets received.", func(i *stats.Interface) uint64 { return i.RxPackets }),
	network("container_network_receive_packets_dropped_total", "Packets dropped while receiving.", func(i *stats.Interface) uint64 { return i.RxDropped }),
	network("container_network_receive_errors_total", "Errors while receiving.", func(i *stats.Interface) uint64 { return i.RxErrors }),
	network("container_network_transmit_bytes_total", "Bytes sent.", func(i *stats.Interface) uint64 { return i.TxBytes }),
	network("container_network_transmit_packets_total", "Packets sent.", func(i *stats.Interface) uint64 { return i.TxPackets }),
	network("container_network_transmit_packets_dropped_total", "Packets dropped while sending.", func(i *stats.Interface) uint64 { return i.TxDropped }),
	network("container_network_transmit_errors_total", "Errors while sending.", func(i *stats.Interface) uint64 { return i.TxErrors }),
}

func network(name, help string, value func(*stats.Interface) uint64) metric {
	return metric{name: name, help: help, kind: counter, labels: []string{"interface"}, sample: func(s *Subject, add sampler) {
		for i := range s.Interfaces {
			add(value(&s.Interfaces[i]), s.Interfaces[i].Name)
		}
	}}
}

var processMetrics = []metric{
	processes("container_processes", "Processes.", func(p *stats.Processes) uint64 { return p.Count }),
	processes("container_file_descriptors", "Open file descriptors of its processes.", func(p *stats.Processes) uint64 { return p.FileDescriptors }),
	processes("container_sockets", "Open sockets of its processes.", func(p *stats.Processes) uint64 { return p.Sockets }),
	simple("container_threads", "Threads.", gauge, func(u *stats.Usage) uint64 { return u.Processes }),
	simple("container_threads_max", "Most threads it may have, 0 for no limit.", gauge,
		func(u *stats.Usage) uint64 { return limit(u.Details.MaxThreads) }),
	{
		name: "container_ulimits_soft", help: "Soft limits of its first process. One that is no limit has no sample.", kind: gauge,
		labels: []string{"ulimit"},
		sample: func(s *Subject, add sampler) {
			if p := s.Processes; p != nil && p.HasLimits && p.OpenFilesLimit != stats.NoLimit {
				add(p.OpenFilesLimit, "max_open_files")
			}
		},
	},
}

func processes(name, help string, value func(*stats.Processes) uint64) metric {
	return metric{name: name, help: help, kind: gauge, sample: func(s *Subject, add sampler) {
		if s.Processes != nil {
			add(value(s.Processes))
		}
	}}
}
