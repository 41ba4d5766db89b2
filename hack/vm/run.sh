#!/usr/bin/env bash
# run.sh COMMAND: boots the virtual machine, runs a shell command in it as root, shows what
# it writes and ends with its exit code. The machine's disk is discarded.
#
# Everything below .cache/vm/payload (see payload.sh) is at /payload in the machine, and
# Berth is installed from there, if it is there; it is not started. There is no network.
#
#   VM_CGROUPS   v2 (default), hybrid or v1
#   VM_MEMORY    in MiB (4096)
#   VM_CPUS      (2)
#   VM_TIMEOUT   how long the machine may take, as timeout(1) has it (30m)
#   VM_APPEND    more for the kernel's command line
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -eq 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \?//;p}' "$0" >&2; exit 2; }
cache=${VM_CACHE:-$here/../../.cache/vm}

case ${VM_CGROUPS:-v2} in
  v2) cgroups=systemd.unified_cgroup_hierarchy=1 ;;
  hybrid) cgroups="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0" ;;
  v1) cgroups="systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1" ;;
  *) echo "vm: VM_CGROUPS is v2, hybrid or v1" >&2; exit 2 ;;
esac

image=$("$here/image.sh")
dir=$(mktemp -d "${TMPDIR:-/tmp}/berth-vm.XXXXXX")
trap 'rm -rf "$dir"' EXIT

mkdir -p "$cache/payload" "$dir/payload"
cp -al "$cache/payload/." "$dir/payload/" 2>/dev/null || cp -a "$cache/payload/." "$dir/payload/"
cp -r "$here/guest" "$dir/payload/"
printf '%s\n' "$1" >"$dir/payload/command"
truncate -s "$(($(du -sm "$dir/payload" | cut -f1) * 11 / 10 + 32))M" "$dir/payload.img"
mke2fs -q -t ext4 -O ^has_journal -m 0 -L payload -d "$dir/payload" "$dir/payload.img"

# No hardware virtualisation is needed: -cpu max is what the emulator can do, but for
# five-level page tables, which cost time on each miss. What is slow to emulate or of no
# use in a machine without secrets is left out.
kernel="root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off audit=0 psi=1
  systemd.show_status=error
  apparmor=1 security=apparmor hugepagesz=2M hugepages=16 $cgroups ${VM_APPEND:-}"
disk() { echo "file=$1,format=raw,if=virtio,cache=unsafe,snapshot=on"; }

# The machine writes into a pipe whatever our output is: QEMU would truncate a file.
exec 3> >(exec cat)
shown=$!
code=0
TMPDIR=$dir timeout --foreground --kill-after=10 "${VM_TIMEOUT:-30m}" qemu-system-x86_64 \
  -accel tcg,thread=multi,tb-size=512 -cpu max,la57=off -smp "${VM_CPUS:-2}" -m "${VM_MEMORY:-4096}" \
  -nodefaults -no-user-config -display none -no-reboot -nic none \
  -kernel "$image/vmlinuz" -initrd "$image/initrd" -append "$(echo $kernel)" \
  -drive "$(disk "$image/root.img")" -drive "$(disk "$dir/payload.img")" -drive "$(disk "$image/swap.img")" \
  -serial "file:$dir/console" -device virtio-rng-pci -device virtio-serial-pci \
  -chardev file,id=output,path=/dev/fd/3 -device virtserialport,chardev=output,name=berth.output \
  -chardev "file,id=status,path=$dir/status" -device virtserialport,chardev=status,name=berth.status \
  </dev/null || code=$?
exec 3>&-
wait "$shown"

if [ -s "$dir/status" ]; then
  exit "$(cat "$dir/status")"
fi
{
  [ "$code" -eq 124 ] && echo "vm: not done after ${VM_TIMEOUT:-30m}" || echo "vm: ended with $code before the command did"
  echo "vm: the end of its console:"
  tail -n 60 "$dir/console"
} >&2
exit 1
