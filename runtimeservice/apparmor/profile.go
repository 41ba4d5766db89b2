package apparmor

import "strings"

// profileText is the source of the default profile. It lets a container do what its
// capabilities and namespaces let it, and keeps it, whatever these are, from
// mounting and from what of /proc and /sys drives the node. It includes no files:
// a node need not have AppArmor's own.
//
// Who is unconfined (the monitor, a debugger on the node) may signal and trace
// the container; containers under this profile may do so among themselves, within
// the bounds of their PID namespaces.
func profileText(name string) string {
	var b strings.Builder
	line := func(s string) { b.WriteString(s + "\n") }
	line("profile " + name + " flags=(attach_disconnected,mediate_deleted) {")
	for _, rule := range []string{
		"file", "network", "capability", "unix", "umount",
		"signal (receive) peer=unconfined",
		"signal (send, receive) peer=" + name,
		"ptrace (readby, tracedby) peer=unconfined",
		"ptrace (read, readby, trace, tracedby) peer=" + name,
		"deny mount",
	} {
		line("  " + rule + ",")
	}
	for _, path := range untouchable {
		line("  deny " + path + " rwklx,")
	}
	for _, path := range unwritable {
		line("  deny " + path + " wkl,")
	}
	line("}")
	return b.String()
}

// untouchable is what no container reads or writes.
var untouchable = []string{
	"/proc/{sysrq-trigger,kcore,kmem,mem,timer_list,keys,latency_stats,sched_debug}",
	"/sys/{firmware,kernel/security,kernel/debug,kernel/tracing}/**",
	"/sys/devices/virtual/powercap/**",
}

// unwritable is what no container changes.
var unwritable = []string{
	"/proc/{acpi,asound,bus,driver,fs,irq,scsi,tty}/**",
	"/proc/sys/{abi,debug,dev,fs,user,vm}/**",
	"/proc/sys/kernel/{core_pattern,core_uses_pid,hotplug,kexec_load_disabled,kptr_restrict,modprobe,modules_disabled,panic*,perf_*,poweroff_cmd,printk*,sysrq,unprivileged_*,usermodehelper/**,yama/**}",
	"/sys/{block,bus,class,dev,devices,hypervisor,module,power}/**",
	"/sys/kernel/**",
	"/sys/fs/{bpf,btrfs,ext4,f2fs,fuse,pstore,selinux,smackfs,xfs}/**",
}
