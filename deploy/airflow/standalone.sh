#!/bin/sh
# Airflow on this machine alone, for development: SQLite, no Docker (unless AISLE_RUNNER=docker), a password made up at random.
set -eu
here=$(pwd)
export AIRFLOW_HOME="${AIRFLOW_HOME:-$here/data/airflow}"
export AIRFLOW__CORE__DAGS_FOLDER="$here/deploy/airflow/dags" AIRFLOW__CORE__LOAD_EXAMPLES=false
export AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION=false
export AIRFLOW__API__HOST="${AIRFLOW__API__HOST:-127.0.0.1}" AIRFLOW__API__PORT="${AIRFLOW__API__PORT:-8080}"
export AIRFLOW__API__BASE_URL="http://$AIRFLOW__API__HOST:$AIRFLOW__API__PORT"
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="$AIRFLOW__API__BASE_URL/execution/"
export AISLE_RUNNER="${AISLE_RUNNER:-local}" AISLE_REPOSITORY="${AISLE_REPOSITORY:-$here}"
export AISLE_WORKSPACE="${AISLE_WORKSPACE:-$here/data/workspace}" AISLE_VENV="${AISLE_VENV:-$here/.venv}"
echo "Airflow: $AIRFLOW__API__BASE_URL; its user and password: $AIRFLOW_HOME/simple_auth_manager_passwords.json.generated"
PATH="$here/.venv-airflow/bin:$PATH" exec airflow standalone
