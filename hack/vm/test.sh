#!/usr/bin/env bash
# Runs the part of the integration suite that depends on the machine (see selection) in
# virtual ones with systemd, cgroup v2, AppArmor and a Debian kernel: with the systemd
# cgroup driver, after a look at the installed service, then with cgroupfs; and the tests
# of SELinux in one that has that instead. Ends with an error if one of them fails.
#
#   VM_RUN      the tests that match instead, as go test -run has it; "." for all
#   VM_DRIVERS  which of "systemd cgroupfs selinux"
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# selected DRIVER: the patterns for it, as one.
selected() { awk -v driver="$1" '!/^#/ && (NF == 1 || $1 == driver) { print $NF }' "$here/selection" | paste -sd'|'; }

"$here/payload.sh"
failed=()
for driver in ${VM_DRIVERS:-systemd cgroupfs selinux}; do
  echo "==> $driver"
  if [ "$driver" = selinux ]; then
    VM_APPEND="security=selinux selinux=1 enforcing=0" "$here/run.sh" guest/selinux || failed+=("$driver")
  else
    "$here/run.sh" "guest/suite $driver '${VM_RUN:-$(selected "$driver")}'" || failed+=("$driver")
  fi
done
[ ${#failed[@]} -eq 0 ] || { echo "vm: failed with ${failed[*]}" >&2; exit 1; }
