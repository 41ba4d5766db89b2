#!/usr/bin/env bash
# Makes the virtual machine's kernel, initial RAM disk and root file system, and prints the
# directory that has them. It is keyed by what this file and guest/ say: made once, and
# again when either changes. Needs root, for debootstrap, and a Debian mirror.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${VM_CACHE:-$here/../../.cache/vm}
suite=bookworm
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

# What the suites use of a node: systemd and what boots with it, the packet filter of the
# CNI plugins, AppArmor, CRIU, file systems with quota, and a second OCI runtime.
packages=(
  linux-image-amd64 systemd systemd-sysv udev dbus kmod procps
  iproute2 iptables nftables apparmor criu crun busybox-static ca-certificates
  e2fsprogs xfsprogs
)

key=$(cd "$here" && cat image.sh guest/berth-vm.service | sha256sum | cut -c1-12)
mkdir -p "$cache/debs"
cache=$(cd "$cache" && pwd)
image=$cache/$key
exec 9>"$cache/lock"
flock 9
if [ -e "$image/root.img" ]; then
  echo "$image"
  exit
fi

root=$(mktemp -d "$cache/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
say() { echo "vm: $*" >&2; }

# A mirror may be slow or in the middle of an update; what has come is in the cache.
for try in 1 2 3; do
  say "debootstrap of $suite from $mirror"
  debootstrap --variant=minbase --cache-dir="$cache/debs" \
    --include="$(IFS=,; echo "${packages[*]}")" "$suite" "$root" "$mirror" >"$cache/debootstrap.log" 2>&1 && break
  tail -n 40 "$cache/debootstrap.log" >&2
  [ "$try" -lt 3 ] || exit 1
  find "$root" -xdev -mindepth 1 -delete
  sleep 10
done

say "configuration"
cat >"$root/etc/fstab" <<'END'
/dev/vda       /        ext4  rw       0 0
LABEL=payload  /payload ext4  ro       0 0
LABEL=swap     none     swap  defaults 0 0
END
mkdir "$root/payload"
echo berth-vm >"$root/etc/hostname"
echo "127.0.0.1 localhost berth-vm" >"$root/etc/hosts"
install -m 644 "$here/guest/berth-vm.service" "$root/etc/systemd/system/"
# Nobody logs in, nothing is updated, and no clock but the machine's is there.
chroot "$root" systemctl -q enable berth-vm.service
chroot "$root" systemctl -q mask getty.target serial-getty@.service apt-daily.timer \
  apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer systemd-timesyncd.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount
# Compiling the profiles of programs that nobody runs here takes longer than the rest of
# the start.
rm -rf "$root"/etc/apparmor.d/{lsb_release,nvidia_modprobe,sbin.*,usr.*}
# An emulated machine has none of the hardware of most modules.
rm -rf "$root"/lib/modules/*/kernel/{sound,drivers/{gpu,media,infiniband,staging,iio,bluetooth,isdn,net/{ethernet,wireless}}}
rm -rf "$root"/{usr/share/{doc,man,locale},var/cache/apt,var/lib/apt/lists}/*
version=$(basename "$root"/lib/modules/*)
chroot "$root" depmod "$version"
cat >"$root/etc/initramfs-tools/conf.d/berth" <<'END'
MODULES=list
COMPRESS=gzip
END
printf '%s\n' virtio_pci virtio_blk ext4 >>"$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u -k "$version" >>"$cache/debootstrap.log" 2>&1 ||
  { tail -n 20 "$cache/debootstrap.log" >&2; exit 1; }

say "disk"
mkdir -p "$image"
cp "$root/boot/vmlinuz-$version" "$image/vmlinuz"
cp "$root/boot/initrd.img-$version" "$image/initrd"
truncate -s 256M "$image/swap.img"
mkswap -q -L swap "$image/swap.img"
truncate -s 8G "$image/root.tmp"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$root" "$image/root.tmp"
mv "$image/root.tmp" "$image/root.img"
# Those of earlier inputs will not be asked for again.
find "$cache" -mindepth 2 -maxdepth 2 -name root.img ! -path "$image/*" -printf '%h\0' | xargs -0r rm -rf
echo "$image"
