#!/usr/bin/env bash
# Installs the Debian packages that building, the demo and the tests need; as
# `setup.sh vm` also those that only the virtual machine of `make test-vm` needs.
# On another distribution it names what is missing and ends with an error.
set -euo pipefail

declare -A needs=(
  [make]="command -v make"
  [gcc]="command -v gcc"
  [libc6-dev]="test -e /usr/include/stdio.h"
  [libseccomp-dev]="test -e /usr/include/seccomp.h"
  [libisal-dev]="test -e /usr/include/isa-l/igzip_lib.h"
  [pkg-config]="command -v pkg-config"
  [busybox-static]="test -x /bin/busybox"
  [iptables]="command -v iptables"
  [nftables]="command -v nft"
  [iproute2]="command -v ip"
  [mount]="command -v mount"
  [ca-certificates]="test -s /etc/ssl/certs/ca-certificates.crt"
  [git]="command -v git"
  [e2fsprogs]="command -v mke2fs"
  [xfsprogs]="command -v mkfs.xfs"
)
if [ "${1:-}" = vm ]; then
  needs+=(
    [qemu-system-x86]="command -v qemu-system-x86_64"
    [debootstrap]="command -v debootstrap"
    [debian-archive-keyring]="test -e /usr/share/keyrings/debian-archive-keyring.gpg"
    [gpgv]="command -v gpgv"
    [secilc]="command -v secilc"
    [util-linux]="command -v mkswap"
  )
fi

missing=()
for package in "${!needs[@]}"; do
  ${needs[$package]} >/dev/null 2>&1 || missing+=("$package")
done
if ! command -v go >/dev/null; then
  echo "setup: Go is missing; install Go 1.26 or newer from https://go.dev/dl/" >&2
  exit 1
fi
# From 1.21 on, Go fetches the newer one that go.mod asks for; Debian's own is older.
version=$(go env GOVERSION)
if [[ $version =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -lt 21 ]; then
  echo "setup: $version is too old; install Go 1.26 or newer from https://go.dev/dl/" >&2
  exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "setup: this is no Debian; install what these Debian packages hold: ${missing[*]}" >&2
  exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "setup: as root, run: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -qq -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 "$@"; }
apt update
apt install -y --no-install-recommends "${missing[@]}" >/dev/null
