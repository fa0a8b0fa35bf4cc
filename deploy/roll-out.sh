#!/usr/bin/env bash
# Puts a release into the cluster that kubectl points at: the manifests of its tag, its images by digest.
#
#   GITHUB_REPOSITORY=owner/name deploy/roll-out.sh staging v0.2.0
#
# Run it in a clone that has the tag: a roll-back brings the old manifests back, too. Exit 4: an image has no digest or no
# signature, and nothing was changed. Exit 1: the migrations failed and the services are as they were, or the new pods did
# not become ready within ROLL_OUT_TIMEOUT (10m) and the old ones serve on.
set -euo pipefail

environment=$1 version=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$here/fetch-release.sh" "$version" "$work/images.txt"

git archive "refs/tags/$version" deploy/kubernetes | tar --extract --directory "$work"
overlay="$work/deploy/kubernetes/overlays/$environment"
while read -r target image; do
  sed --in-place --regexp-extended \
    "s|\{name: aisle/$target, newTag: [^}]*\}|{name: aisle/$target, newName: ${image%@*}, digest: \"${image#*@}\"}|" \
    "$overlay/kustomization.yaml"
done < "$work/images.txt"

kubectl kustomize "$overlay" > "$work/manifests.yaml"
if grep -E '^[ -]*image: ' "$work/manifests.yaml" | grep -vE '@sha256:[0-9a-f]{64}$'; then
  echo "these images have no digest in $version" >&2
  exit 4
fi

namespace=$(sed -n 's/^namespace: //p' "$overlay/kustomization.yaml")
cluster() { kubectl --namespace "$namespace" "$@"; }
component=app.kubernetes.io/component

# What the migrations need, and the migrations, while the services of the release before go on. A Job cannot be changed.
cluster apply --filename "$work/manifests.yaml" --selector "$component notin (serve, auth, worker, migrate)"
cluster delete job --selector "$component=migrate" --ignore-not-found
cluster apply --filename "$work/manifests.yaml" --selector "$component=migrate"
if ! cluster wait job --selector "$component=migrate" --for=condition=complete --timeout="${ROLL_OUT_TIMEOUT:-10m}"; then
  cluster logs --selector "$component=migrate" --tail=50 >&2 || true
  echo "the migrations of $version did not complete; the services are as they were" >&2
  exit 1
fi

cluster apply --filename "$work/manifests.yaml"
for service in aisle-auth aisle-serve aisle-worker; do
  cluster rollout status "deployment/$service" --timeout="${ROLL_OUT_TIMEOUT:-10m}"
done
