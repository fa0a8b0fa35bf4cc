#!/usr/bin/env bash
# The images of a release, by digest, each one signed by the release workflow on the tag of that release.
#
#   GITHUB_REPOSITORY=owner/name deploy/fetch-release.sh v0.2.0 images.txt
#
# Writes lines `TARGET IMAGE@DIGEST`. Needs gh and cosign. Exit 4: something is not what that workflow made.
set -euo pipefail

version=$1 images=$2
: "${GITHUB_REPOSITORY:?is owner/name}"
registry="ghcr.io/${GITHUB_REPOSITORY,,}"
workflow="${GITHUB_SERVER_URL:-https://github.com}/$GITHUB_REPOSITORY/.github/workflows/release.yml@refs/tags/$version"

fail() {
  printf '%s: %s\n' "$version" "$*" >&2
  exit 4
}

gh release download "$version" --repo "$GITHUB_REPOSITORY" --pattern images.txt --output "$images.part" --clobber
while read -r target image; do
  [[ "$image" =~ ^"$registry/$target"@sha256:[0-9a-f]{64}$ ]] || fail "$image is no image of $registry/$target by digest"
  cosign verify "$image" --certificate-identity "$workflow" \
    --certificate-oidc-issuer https://token.actions.githubusercontent.com < /dev/null > /dev/null \
    || fail "$image is not signed by the release workflow"
done < "$images.part"
test -s "$images.part" || fail "images.txt is empty"
mv "$images.part" "$images"
