#!/usr/bin/env bash
# policy.sh FILE: compiles the SELinux policy of the virtual machine.
set -euo pipefail
source=$(mktemp)
trap 'rm -f "$source"' EXIT
{
  cat "$(dirname "$0")/policy.cil"
  # The categories of all policies of distributions, c0 to c1023.
  printf '(category c%d)\n' {0..1023}
  printf '(categoryorder (%s))\n' "$(printf 'c%d ' {0..1023})"
  # The kernel's own subjects and objects, in its order.
  sids=(kernel security unlabeled fs file file_labels init any_socket port netif netmsg node
    igmp_packet icmp_socket tcp_socket sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net
    sysctl_net_unix sysctl_vm sysctl_dev kmod policy scmp_packet devnull)
  printf '(sid %s)\n' "${sids[@]}"
  echo "(sidorder (${sids[*]}))"
  printf '(sidcontext %s (system_u object_r node_t (low low)))\n' "${sids[@]:1}"
} >"$source"
secilc --policyvers=33 --output="$1" --filecontexts=/dev/null "$source"
