#!/usr/bin/env bash
# Puts what the virtual machine's suites need below .cache/vm/payload, which is /payload in
# the machine: the programs, the plugins, the manifests and the test programs.
set -euo pipefail
cd "$(dirname "$0")/../.."
payload=${VM_CACHE:-.cache/vm}/payload

# Packages of which the machine shows what the builder's cannot.
suites=(cri/integration)

mkdir -p "$payload/bin"
make -s build cni-plugins "$PWD/.cache/runc"
cp -r --remove-destination bin/berthd bin/berth-monitor bin/berth bin/cni .cache/runc "$payload/bin/"
CGO_ENABLED=0 go build -o "$payload/bin/demoregistry" ./hack/demoregistry
hack/vm/selinux/policy.sh "$payload/selinux.policy"
rm -rf "$payload/manifests"
cp -r manifests "$payload/"
for package in "${suites[@]}"; do
  mkdir -p "$payload/$package"
  go test -c -tags seccomp -o "$payload/$package/" "./$package"
done
