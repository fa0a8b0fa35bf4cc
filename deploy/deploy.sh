#!/usr/bin/env bash
# Brings a release into an environment, tries it, and brings the one before back when it fails.
#
#   GITHUB_REPOSITORY=owner/name SMOKE_URL=… SMOKE_USER=… SMOKE_PASSWORD=… deploy/deploy.sh staging v0.2.0
#
# `previous` as the version is what ran before the present one. The ConfigMap aisle-release in the cluster keeps what runs
# (version) and what ran before (previous). Exit 4: the release failed; the last line says what runs now.
set -euo pipefail

environment=$1 wanted=$2
here=$(cd "$(dirname "$0")" && pwd)
namespace=$(sed -n 's/^namespace: //p' "$here/kubernetes/overlays/$environment/kustomization.yaml")

recorded() {
  kubectl --namespace "$namespace" get configmap aisle-release --ignore-not-found --output "jsonpath={.data.$1}"
}

record() {
  kubectl create configmap aisle-release --dry-run=client --output yaml \
    --from-literal=version="$1" --from-literal=previous="$2" | kubectl --namespace "$namespace" apply --filename -
}

works() {
  "$here/roll-out.sh" "$environment" "$1" && "$here/smoke-test.sh"
}

fail() {
  printf '%s: %s\n' "$environment" "$*" >&2
  exit 4
}

running=$(recorded version)
if [[ "$wanted" == previous ]]; then
  wanted=$(recorded previous)
  [[ -n "$wanted" ]] || fail "nothing ran before ${running:-the first release}"
fi

if works "$wanted"; then
  [[ "$wanted" == "$running" ]] || record "$wanted" "$running"
  echo "$environment: it runs $wanted"
elif [[ -z "$running" || "$running" == "$wanted" ]]; then
  fail "$wanted failed, and there is nothing else to go back to"
elif works "$running"; then
  fail "$wanted failed; it runs $running again"
else
  fail "$wanted failed, and so did $running on the way back: look at it now"
fi
