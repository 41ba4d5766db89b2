#!/usr/bin/env bash
# Runs the part of the integration suite that depends on the machine (see selection) in
# virtual ones with systemd, cgroup v2, AppArmor and a Debian kernel: with the systemd
# cgroup driver, after a look at the installed service, then with cgroupfs; and the tests
# of SELinux in one that has that instead. Ends with an error if one of them fails.
#
#   VM_RUN      the tests that match instead, as go test -run has it; "." for all
#   VM_HANDLER  the handler that these run with: berth (default), crun or runc
#   VM_DRIVERS  which of "systemd cgroupfs selinux"
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# selected DRIVER HANDLER: the patterns for both, as one.
selected() {
  awk -v driver="$1" -v handler="$2" '!/^#/ {
    split(NF == 1 ? driver : $1, group, "/")
    if (group[1] == driver && (group[2] == "" ? "berth" : group[2]) == handler) print $NF
  }' "$here/selection" | paste -sd'|'
}

# groups DRIVER: the arguments for guest/suite, each handler and what runs with it.
groups() {
  if [ -n "${VM_RUN:-}" ]; then
    echo "${VM_HANDLER:-berth} '$VM_RUN'"
    return
  fi
  for handler in berth crun runc; do
    pattern=$(selected "$1" "$handler")
    [ -z "$pattern" ] || echo -n "$handler '$pattern' "
  done
}

"$here/payload.sh"
failed=()
for driver in ${VM_DRIVERS:-systemd cgroupfs selinux}; do
  echo "==> $driver"
  if [ "$driver" = selinux ]; then
    VM_APPEND="security=selinux selinux=1 enforcing=0" "$here/run.sh" guest/selinux || failed+=("$driver")
  else
    "$here/run.sh" "guest/suite $driver $(groups "$driver")" || failed+=("$driver")
  fi
done
[ ${#failed[@]} -eq 0 ] || { echo "vm: failed with ${failed[*]}" >&2; exit 1; }
