#!/usr/bin/env bash
# Measures Berth, and beside it in the same run containerd with runc, both with the same
# CNI plugins and images. Prints a table; leaves bench.json, and with UPDATE_DOCS=1 the
# table and chart of docs/performance.md.
#
#   PEER=none hack/bench.sh           Berth alone
#   PEER_IGZIP=no hack/bench.sh       containerd inflates itself; else it runs the igzip that
#                                     is installed here, which its packages do not ask for
#   hack/bench.sh -only exec          arguments go to the bench program
set -euo pipefail
cd "$(dirname "$0")/.."

CONTAINERD=v2.4.2
RUNC=v1.5.2
PEER=${PEER:-containerd}
REGISTRY=127.0.0.1:5959

missing=()
command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v igzip >/dev/null || missing+=(isal)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

cache=$PWD/.cache
bin=$PWD/bin
mkdir -p "$cache"
work=$(mktemp -d /tmp/berth-bench.XXXXXX)
pids=()

# A file system of its own: ext4 passes over inodes that were freed a moment ago, so what
# other programs removed would slow down whoever makes files here. What belongs on /run is
# on a tmpfs, as there. Direct, so that what is written is not cached twice.
truncate -s 40G "$work.img"
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$work.img"
loop=$(losetup --find --show --direct-io=on --sector-size 4096 "$work.img")
mount "$loop" "$work"
mkdir -p "$work/run" "$work/tmp"
mount -t tmpfs -o mode=755 tmpfs "$work/run"
export TMPDIR=$work/tmp

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  # The monitor outlives its daemon on purpose.
  for dir in /proc/[0-9]*; do
    if grep -qsx berth-monitor "$dir/comm" && grep -qsF "$work/run" "$dir/cmdline"; then kill -9 "${dir#/proc/}"; fi
  done
  awk -v dir="$work" '$5 == dir || index($5, dir "/") == 1 {print $5}' /proc/self/mountinfo | sort -r | xargs -r umount -l
  losetup -d "$loop"
  rm -f "$work.img"
  for bridge in bench-berth bench-peer; do ip link delete "$bridge" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

conflist() { # BRIDGE SUBNET DIR
  mkdir -p "$3"
  cat > "$3/10-bench.conflist" <<EOF
{"cniVersion": "1.0.0", "name": "$1", "plugins": [
  {"type": "bridge", "bridge": "$1", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$work/ipam", "ranges": [[{"subnet": "$2"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
}

await() { # SOCKET PID
  for _ in $(seq 200); do
    [ -S "$1" ] && return 0
    kill -0 "$2" || { echo "bench: the daemon of $1 ended" >&2; cat "$work"/*.log >&2; return 1; }
    sleep 0.1
  done
  echo "bench: no socket at $1" >&2; return 1
}

start_berth() {
  conflist bench-berth 10.251.0.0/16 "$work/berth/net.d"
  cat > "$work/berth/config.yaml" <<EOF
apiVersion: berth.dev/v1alpha1
kind: BerthConfiguration
network:
  confDirs: [$work/berth/net.d]
  binDirs: [$bin/cni]
EOF
  "$bin/berthd" --config "$work/berth/config.yaml" --root "$work/berth/lib" --state "$work/run/berth" \
    --log-level warn 2> "$work/berth.log" &
  pids+=($!)
  await "$work/run/berth/berth.sock" $!
  args+=(-runtime "berth=unix://$work/run/berth/berth.sock,berthd@$work,berth-monitor@$work")
}

build_peer() {
  [ -x "$cache/peers/containerd" ] && [ -x "$cache/peers/runc" ] && return 0
  export GOBIN=$cache/peers
  go install -trimpath -ldflags '-s -w' "github.com/containerd/containerd/v2/cmd/containerd@$CONTAINERD"
  go install -trimpath -ldflags '-s -w' "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@$CONTAINERD"
  go install -trimpath -tags seccomp -ldflags '-s -w' "github.com/opencontainers/runc@$RUNC"
}

start_containerd() {
  build_peer
  echo 'int pause(void); int main(void) { for (;;) pause(); }' | gcc -static -Os -s -x c - -o "$work/pause"
  conflist bench-peer 10.252.0.0/16 "$work/peer/net.d"
  cat > "$work/peer/config.toml" <<EOF
version = 3
root = "$work/peer/lib"
state = "$work/run/peer"
[grpc]
  address = "$work/peer/containerd.sock"
[ttrpc]
  address = "$work/peer/containerd.sock.ttrpc"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "$REGISTRY/bench/pause:latest"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["$bin/cni"]
  conf_dir = "$work/peer/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "$cache/peers/runc"
EOF
  [ "${PEER_IGZIP:-}" != no ] || export CONTAINERD_DISABLE_IGZIP=1
  PATH="$cache/peers:$PATH" "$cache/peers/containerd" --config "$work/peer/config.toml" --log-level error 2> "$work/peer.log" &
  pids+=($!)
  await "$work/peer/containerd.sock" $!
  args+=(-runtime "containerd=unix://$work/peer/containerd.sock,containerd@$work,containerd-shim-runc-v2@$work,pause" -pause "$work/pause")
}

debian_tree() {
  if [ ! -e "$cache/debian/etc/debian_version" ]; then
    rm -rf "$cache/debian"
    debootstrap --variant=minbase --include=python3,perl,ca-certificates bookworm "$cache/debian" > "$cache/debootstrap.log"
  fi
  args+=(-pull-tree "debian=$cache/debian")
}

args=(-registry "$REGISTRY" -json "$PWD/bench.json")
start_berth
[ "$PEER" = containerd ] && start_containerd
debian_tree
if [ "${UPDATE_DOCS:-}" = 1 ]; then
  args+=(-svg docs/performance.svg -markdown "$work/table.md")
fi

go build -o "$work/bench" ./hack/bench
"$work/bench" "${args[@]}" "$@"

if [ "${UPDATE_DOCS:-}" = 1 ]; then
  # Everything behind the marker is the measurement's.
  sed -i '/<!-- measured -->/q' docs/performance.md
  { echo; cat "$work/table.md"; } >> docs/performance.md
fi
