#!/usr/bin/env bash
# Generate the passwords and keys of an environment, straight into the cluster that kubectl points to.
#
#   deploy/kubernetes/secrets.sh staging|production
#
# It makes the namespaces where they are missing, and stops at the first secret that is there already: none is replaced.
set -euo pipefail

overlay="$(dirname "$0")/overlays/${1:?which environment: staging or production}"
namespace=$(sed -n 's/^namespace: //p' "$overlay/kustomization.yaml")
data="$namespace-data"

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A secret is a folder with a file for each key, so that no value is an argument of a program.
random() { openssl rand -hex 24 | tr -d '\n'; }
put() {
  mkdir -p "$work/${1%/*}"
  cat >"$work/$1"
}
create() {
  kubectl --namespace "$1" create secret generic "$2" --type="${3:-Opaque}" --from-file="$work/$2"
}
namespace() {
  kubectl create namespace "$1" --dry-run=client --output=yaml | kubectl apply --filename -
}

for owner in aisle airflow; do
  printf %s "$owner" | put "$owner-postgres-owner/username"
  random | put "$owner-postgres-owner/password"
done
random | put aisle-redis-users/default
postgres() { printf '%s:%s@%s-postgres-rw.%s:5432/%s?sslmode=require' "$1" "$(<"$work/$1-postgres-owner/password")" "$1" "$data" "$1"; }

printf 'postgresql+psycopg://%s' "$(postgres aisle)" | put aisle/database_url
printf 'redis://:%s@aisle-redis.%s:6379/0' "$(<"$work/aisle-redis-users/default")" "$data" | put aisle/redis_url
random | put aisle/signing_key_passphrase
random | put aisle-first-admin/bootstrap_admin_password

printf 'postgresql://%s' "$(postgres airflow)" | put airflow/connection
openssl rand -base64 32 | tr '+/' '-_' | tr -d '\n' | put airflow/fernet-key
random | put airflow/api-secret-key
random | put airflow/jwt-secret

printf admin | put grafana-admin/username
random | put grafana-admin/password

for one in "$namespace" "$data" monitoring; do
  namespace "$one"
done
create "$data" aisle-postgres-owner kubernetes.io/basic-auth
create "$data" airflow-postgres-owner kubernetes.io/basic-auth
create "$data" aisle-redis-users
create "$namespace" aisle
create "$namespace" aisle-first-admin
create "$namespace" airflow
# Monitoring is there once, for all environments.
kubectl --namespace monitoring get secret grafana-admin >/dev/null 2>&1 || create monitoring grafana-admin
