#!/usr/bin/env bash
# Install or upgrade one of the charts beside this file, at the version that its values file names.
#
#   deploy/kubernetes/charts/install.sh postgres [more options of helm upgrade]
set -euo pipefail

values="$(dirname "$0")/${1:?which chart: the name of a values file}.yaml"
shift
pinned() { sed -n "s/^# $1: //p" "$values"; }

helm upgrade --install "$(pinned release)" "$(pinned chart)" --repo "$(pinned repository)" --version "$(pinned version)" \
  --namespace "$(pinned namespace)" --create-namespace --values "$values" --wait --timeout 10m "$@"
