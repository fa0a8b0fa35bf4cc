#!/usr/bin/env bash
# Trains a bundle and measures it, and leaves both in a folder with a report for people. Promotes nothing.
#
#   SOURCE=sample RECIPE=light deploy/train.sh FOLDER
#
# FOLDER gets bundle/, evaluation/ (JSON and HTML) and report.md. ROWS: products of the sample.
set -euo pipefail

out=$1
: "${SOURCE:?is sample, huggingface, s3://BUCKET/PREFIX or a folder}"
: "${RECIPE:?is light or lstm-vgg16}"
aisle=${AISLE:-aisle}
mkdir -p "$out"

"$aisle" import --source "$SOURCE" --to data/raw ${ROWS:+--rows "$ROWS"}
"$aisle" train --recipe "$RECIPE" --data data/raw --out "$out/bundle"
"$aisle" evaluate --model "$out/bundle" --data data/raw --report "$out/evaluation" > "$out/table.txt"

# GitHub refuses comments of more than 65,536 characters. Labels come from the catalogue: no backquote, no end of the block.
# shellcheck disable=SC2016  # the backquotes are Markdown's
{
  printf '### Trained: `%s` on `%s`\n\n' "${RECIPE//\`/}" "${SOURCE//\`/}"
  printf 'Revision %s. Nothing was promoted: `aisle registry promote` asks the gate.\n\n' "${GITHUB_SHA:-unknown}"
  printf '```text\n'
  head --bytes 50000 "$out/table.txt" | tr --delete '`'
  printf '\n```\n'
} > "$out/report.md"
rm "$out/table.txt"
