#!/bin/sh
# Airflow's database, and its first administrator with the password of AIRFLOW_ADMIN_PASSWORD. Again does nothing more.
set -eu
airflow db migrate
if ! airflow users list --output plain 2>/dev/null | grep -qw admin; then
  # Asked for on standard input, so that it is in no list of processes.
  printf '%s\n%s\n' "$AIRFLOW_ADMIN_PASSWORD" "$AIRFLOW_ADMIN_PASSWORD" |
    airflow users create --username admin --role Admin --firstname A --lastname Administrator --email admin@aisle.invalid
fi
