#!/usr/bin/env bash
# Runs the part of the integration suite that depends on the machine (see selection) in a
# virtual one with systemd, cgroup v2, AppArmor and a Debian kernel: with the systemd cgroup
# driver, after a look at the installed service, then with cgroupfs. Ends with an error if
# one of them fails.
#
#   VM_RUN      the tests that match instead, as go test -run has it; "." for all
#   VM_DRIVERS  "systemd cgroupfs", or one of them
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$here/payload.sh"
run=${VM_RUN:-$(grep -v '^#' "$here/selection" | paste -sd'|')}
failed=()
for driver in ${VM_DRIVERS:-systemd cgroupfs}; do
  echo "==> cgroup driver $driver"
  "$here/run.sh" "guest/suite $driver '$run'" || failed+=("$driver")
done
[ ${#failed[@]} -eq 0 ] || { echo "vm: failed with cgroup driver ${failed[*]}" >&2; exit 1; }
