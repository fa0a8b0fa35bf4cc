#!/usr/bin/env bash
# The notes of a release: what stands in CHANGELOG.md under `## VERSION`. Exit 4: nothing does.
#
#   deploy/release-notes.sh v0.2.0 < CHANGELOG.md
set -euo pipefail

notes=$(awk -v version="${1#v}" '
  /^## / { wanted = ($2 == version) ; next }
  wanted { print }
')
test -n "${notes//[[:space:]]/}" || { echo "CHANGELOG.md has nothing under ## ${1#v}" >&2; exit 4; }
printf '%s\n' "$notes"
