#!/usr/bin/env bash
# Shows Berth at work, on a machine with nothing but what `make build cni-plugins`
# left in bin/: a pod is pulled, started, reached over its network, exec'ed into,
# logged, measured and removed. Everything lives in a temporary folder and goes at
# the end; an installed Berth, or another container runtime, is not touched.
#
# Ends with an error at the first step that does not do what it says.
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=${BIN:-$PWD/bin}
DIR=$(mktemp -d /tmp/berth-demo.XXXXXX)
BRIDGE=bdemo$((BASHPID % 100000))
export BERTH_ADDRESS=unix://$DIR/run/berth.sock

if [ -t 1 ]; then BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' PLAIN=$'\e[0m'; else BOLD='' DIM='' RED='' PLAIN=''; fi

heading() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN"; }
note() { printf '%s   %s%s\n' "$DIM" "$*" "$PLAIN"; }
fail() {
  printf '%sdemo: %s%s\n' "$RED" "$*" "$PLAIN" >&2
  exit 1
}

# show prints a command line as one would type it.
show() {
  local word line='$'
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@+-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+=" $word"
  done
  printf '%s%s%s\n' "$BOLD" "$line" "$PLAIN"
}

# berth shows the command line, runs it, shows what it wrote and keeps it in OUT.
berth() {
  show berth "$@"
  local code=0
  OUT=$("$BIN/berth" "$@" 2>&1) || code=$?
  [ -z "$OUT" ] || printf '%s\n' "$OUT"
  return "$code"
}

# expect checks what the last command wrote.
expect() { grep -qE -- "$1" <<<"$OUT" || fail "${2:-the output does not match \"$1\"}"; }
refuse() { ! grep -qE -- "$1" <<<"$OUT" || fail "${2:-the output matches \"$1\"}"; }

# monitors lists the processes of this demo's monitor, which outlives berthd.
monitors() {
  local dir
  for dir in /proc/[0-9]*; do
    if [ "$(cat "$dir/comm" 2>/dev/null)" = berth-monitor ] && tr '\0' ' ' 2>/dev/null <"$dir/cmdline" | grep -qF "$DIR/"; then
      echo "${dir#/proc/}"
    fi
  done
}

mounts() { awk -v dir="$DIR/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r; }

ended() {
  for _ in $(seq 200); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.05
  done
  return 1
}

stop_berthd() {
  [ -n "${BERTHD:-}" ] || return 0
  kill "$BERTHD" 2>/dev/null || true
  wait "$BERTHD" 2>/dev/null || true
  BERTHD=
  # The monitor stays for pods of the next berthd and ignores SIGTERM.
  local pid
  for pid in $(monitors); do
    kill -KILL "$pid" 2>/dev/null || true
    ended "$pid" || true
  done
}

cleanup() {
  local code=$?
  set +e
  trap - EXIT INT TERM
  if [ "$code" -ne 0 ] && [ -s "$DIR/berthd.log" ]; then
    printf '\n%sThe end of berthd'"'"'s log:%s\n' "$BOLD" "$PLAIN" >&2
    tail -n 25 "$DIR/berthd.log" >&2
  fi
  [ -z "${BERTHD:-}" ] || "$BIN/berth" --request-timeout 10s rmp --all --force >/dev/null 2>&1
  stop_berthd
  if [ -n "${REGISTRY:-}" ]; then
    kill "$REGISTRY" 2>/dev/null
    wait "$REGISTRY" 2>/dev/null
  fi
  local mount
  for mount in $(mounts); do umount -l "$mount"; done
  ip link delete "$BRIDGE" 2>/dev/null
  [ -z "${MONITOR_CGROUP:-}" ] || find /sys/fs/cgroup -depth -type d -path "*$MONITOR_CGROUP" -exec rmdir {} + 2>/dev/null
  rm -rf --one-file-system "$DIR"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ "$(id -u)" -eq 0 ] || fail "pods need root: run it as root"
for file in berth berthd berth-monitor cni/bridge cni/host-local; do
  [ -x "$BIN/$file" ] || fail "$BIN/$file is missing: run make build cni-plugins"
done
[ -x /bin/busybox ] || fail "/bin/busybox is missing: apt-get install busybox-static"

# A part of 10/8 that this machine has no route to.
free_subnet() {
  local n
  for n in $(seq 0 255); do
    if ! ip -4 route show table all | grep -qE "10\.99\.$n\.|10\.99\.0\.0/16"; then
      echo "10.99.$n"
      return
    fi
  done
  fail "every part of 10.99.0.0/16 is in use on this machine"
}

heading "A registry on the loopback interface, with a busybox image"
go build -o "$DIR/demoregistry" ./hack/demoregistry
"$DIR/demoregistry" >"$DIR/image" 2>"$DIR/registry.log" &
REGISTRY=$!
for _ in $(seq 200); do
  [ ! -s "$DIR/image" ] || break
  kill -0 "$REGISTRY" 2>/dev/null || fail "the registry ended: $(cat "$DIR/registry.log")"
  sleep 0.05
done
IMAGE=$(cat "$DIR/image")
[ -n "$IMAGE" ] || fail "the registry does not start"
note "$IMAGE"

heading "berthd, with folders, a socket and a bridge of its own"
SUBNET=$(free_subnet)
MONITOR_CGROUP=/$(basename "$DIR")-monitor
mkdir -p "$DIR/net.d" "$DIR/www"
cat >"$DIR/net.d/10-demo.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "$BRIDGE", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true,
   "ipam": {"type": "host-local", "dataDir": "$DIR/ipam", "ranges": [[{"subnet": "$SUBNET.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
cat >"$DIR/berthd.yaml" <<YAML
apiVersion: berth.dev/v1alpha1
kind: BerthConfiguration
network:
  confDirs: [$DIR/net.d]
  binDirs: [$BIN/cni]
runtime:
  monitorCgroup: $MONITOR_CGROUP
YAML
note "network $SUBNET.0/24 on $BRIDGE, everything else in $DIR"
"$BIN/berthd" --config "$DIR/berthd.yaml" --root "$DIR/lib" --state "$DIR/run" >"$DIR/berthd.log" 2>&1 &
BERTHD=$!
for _ in $(seq 400); do
  "$BIN/berth" version >/dev/null 2>&1 && break
  kill -0 "$BERTHD" 2>/dev/null || fail "berthd ended"
  sleep 0.05
done
berth version || fail "berthd does not answer"
expect '^RuntimeName: +berth' "it is not berthd that answers"
berth info
expect '^RuntimeReady: +yes'
expect '^NetworkReady: +yes' "the network is not ready"

heading "Pull"
berth pull "$IMAGE"
expect 'is image [0-9a-f]{13}$'
berth images
expect "demo/busybox +latest +[0-9a-f]{13}"

heading "Run a pod with a web server"
echo "Hello from a pod that Berth runs." >"$DIR/www/index.html"
berth run --detach --name web --log-dir "$DIR/logs" --memory 64m --volume "$DIR/www:/www:ro" "$IMAGE" httpd -f -vv -p 80 -h /www
CONTAINER=$OUT
grep -qE '^[0-9a-f]{64}$' <<<"$CONTAINER" || fail "that is no container ID"
berth pods
expect 'Ready +web +berth'
berth ps
expect "Running +web"

heading "Reach it over its network"
berth inspect --type pod --template '{{.status.network.ip}}' web
IP=$OUT
[[ $IP == "$SUBNET".* ]] || fail "$IP is not of the pods' network"
show busybox wget -qO- "http://$IP/"
for attempt in $(seq 100); do
  if OUT=$(timeout 5 /bin/busybox wget -qO- "http://$IP/" 2>&1); then break; fi
  [ "$attempt" -lt 100 ] || fail "the pod does not answer: $OUT"
  sleep 0.05
done
printf '%s\n' "$OUT"
expect 'Hello from a pod' "the pod answers something else"

heading "Exec into it"
berth exec web hostname
expect '^web$'
berth exec web sh -c 'echo I am process $$, and beside me run:; ps -o pid,comm'
expect '1 httpd'
code=0
berth exec web sh -c 'exit 42' || code=$?
[ "$code" -eq 42 ] || fail "the exit code is $code and not 42"
note "and its exit code, $code, is berth's"

heading "What it wrote"
berth logs --timestamps web
expect '^[0-9]{4}-.*response:200' "the request is not in the log"

heading "What it uses"
berth stats web
expect '^[0-9a-f]{13} +web +[0-9.]+ +[0-9.]+[kM]?B ' "there are no figures"
berth stats --pods
expect '[0-9.]+[kM]?B +[0-9.]+[kM]?B *$' "the pod's network has no figures"

heading "A command in a pod that goes with it"
code=0
berth run --rm --log-dir "$DIR/logs" --env WHO=you "$IMAGE" sh -c 'echo Hello, $WHO; exit 3' || code=$?
expect '^Hello, you$'
[ "$code" -eq 3 ] || fail "the exit code is $code and not 3"
note "exit code $code"

heading "Stop it"
berth stop --time 2s web
berth ps --all
expect 'Exited +web'
berth pods
expect 'NotReady +web'
! timeout 2 /bin/busybox wget -qO- "http://$IP/" >/dev/null 2>&1 || fail "the pod still answers"

heading "Remove it, and the image"
berth rm web
berth ps --all
refuse web "the container is still there"
berth pods
refuse web "the pod is still there"
berth rmi "$IMAGE"
berth images
refuse demo/busybox "the image is still there"

heading "Nothing is left"
nothing() { # what, list
  [ -z "$2" ] || fail "left over: $1: $2"
  note "no $1"
}
nothing "mounts of pods" "$(mounts | grep -E '/(containers|sandboxes|rootfs)/' || true)"
nothing "network interfaces" "$(ip -o link show master "$BRIDGE" 2>/dev/null)"
nothing "addresses in use" "$(find "$DIR/ipam" -name "$SUBNET.*" 2>/dev/null)"
nothing "cgroups" "$(find /sys/fs/cgroup -type d -name "*$CONTAINER*" 2>/dev/null)"
nothing "processes" "$(grep -lsF "$CONTAINER" /proc/[0-9]*/cgroup || true)"
nothing "logs" "$(find "$DIR/logs" -mindepth 1 2>/dev/null)"
nothing "records" "$(find "$DIR/lib/sandboxes" "$DIR/lib/containers" -type f 2>/dev/null)"
nothing "layers" "$(find "$DIR/lib/layers" -mindepth 1 -maxdepth 1 2>/dev/null)"
stop_berthd
nothing "monitor" "$(monitors)"

printf '\n%sThat was Berth.%s\n' "$BOLD" "$PLAIN"
