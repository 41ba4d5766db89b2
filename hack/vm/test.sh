#!/usr/bin/env bash
# Runs the integration suite in a virtual machine with systemd, cgroup v2, AppArmor and a
# Debian kernel: with the systemd cgroup driver, then with cgroupfs. Ends with the suite's
# exit code.
#
#   VM_RUN      only the tests that match, as go test -run has it
#   VM_DRIVERS  "systemd cgroupfs", or one of them
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

"$here/payload.sh"
failed=()
for driver in ${VM_DRIVERS:-systemd cgroupfs}; do
  echo "==> cgroup driver $driver"
  "$here/run.sh" "guest/suite $driver '${VM_RUN:-.}'" || failed+=("$driver")
done
[ ${#failed[@]} -eq 0 ] || { echo "vm: failed with cgroup driver ${failed[*]}" >&2; exit 1; }
