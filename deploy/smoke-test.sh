#!/usr/bin/env bash
# Does a running aisle do what it is there for: live, be ready, sign somebody in, predict?
#
#   SMOKE_URL=https://aisle.example SMOKE_USER=smoke SMOKE_PASSWORD=… deploy/smoke-test.sh
#
# Waits SMOKE_WAIT_SECONDS (60) for the service to be ready. Exit 0: it does. Exit 4: it does not, and which part.
# Neither the password nor the token is printed, or an argument of a program.
set -euo pipefail

: "${SMOKE_URL:?is the address of the prediction service}"
: "${SMOKE_USER:?is the account to sign in with}"
: "${SMOKE_PASSWORD:?is the password of SMOKE_USER}"
url=${SMOKE_URL%/}

fail() {
  printf 'smoke test: %s\n' "$*" >&2
  exit 4
}

ask() {
  curl --silent --show-error --fail-with-body --max-time 20 "$@"
}

until ready=$(ask "$url/readyz" 2>&1); do
  if ((SECONDS >= ${SMOKE_WAIT_SECONDS:-60})); then
    fail "/readyz: $ready"
  fi
  sleep 1
done
echo "ready"

answer=$(ask "$url/livez" 2>&1) || fail "/livez: $answer"
answer=$(ask "$url/status" 2>&1) || fail "/status: $answer"
test "$(jq -r .status <<< "$answer")" = "L'API fonctionne correctement" || fail "/status: $answer"
echo "alive"

answer=$(ask "$url/token" \
  --data-urlencode username@<(printf '%s' "$SMOKE_USER") \
  --data-urlencode password@<(printf '%s' "$SMOKE_PASSWORD") 2>&1) || fail "/token: $answer"
token=$(jq -er .access_token <<< "$answer") || fail "/token gave no token"
echo "signed in"

answer=$(ask "$url/predict" --header @<(printf 'Authorization: Bearer %s' "$token") \
  --form-string designation="Piscine gonflable ronde 3 m avec pompe" 2>&1) || fail "/predict: $answer"
jq -er '"predicted \(.predicted | strings) by model \(.model | strings)"' <<< "$answer" \
  || fail "/predict answered without a type: $answer"
