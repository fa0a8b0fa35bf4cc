#!/bin/sh
# Writes the secrets of compose.yaml to FILE (default: .env), each made up at random. What is there already stays.
set -eu
file=${1:-.env}
umask 077
touch "$file"
chmod 600 "$file"

secret() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

add() {
  grep -q "^$1=." "$file" && return
  printf '%s=%s\n' "$1" "$2" >>"$file"
  echo "$file: $1"
}

for name in POSTGRES_PASSWORD REDIS_PASSWORD SIGNING_KEY_PASSPHRASE AIRFLOW_POSTGRES_PASSWORD AIRFLOW_REDIS_PASSWORD \
  AIRFLOW_SECRET_KEY AIRFLOW_JWT_SECRET AIRFLOW_ADMIN_PASSWORD GRAFANA_ADMIN_PASSWORD STORAGE_SECRET_KEY; do
  add "$name" "$(secret 24)"
done
# Fernet wants 32 bytes in URL-safe base64.
add AIRFLOW_FERNET_KEY "$(dd if=/dev/urandom bs=32 count=1 2>/dev/null | base64 | tr '+/' '-_')"
add BOOTSTRAP_ADMIN_USER admin
add BOOTSTRAP_ADMIN_PASSWORD "$(secret 12)"
