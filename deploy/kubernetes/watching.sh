#!/usr/bin/env bash
# Print the objects that give a cluster's monitoring the alerts, their routes and the dashboards of this repository.
#
#   deploy/kubernetes/watching.sh | kubectl apply --server-side --filename -
#
# They are made of the files that Docker Compose mounts, so that there is one of each. In the namespace `monitoring`, beside
# the release of charts/monitoring.yaml; those of the machine stay out, which the chart has rules of its own for.
set -euo pipefail

deploy="$(dirname "$0")/.."
namespace=monitoring

for rules in recording service model pipeline; do
  cat <<YAML
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: aisle-$rules
  namespace: $namespace
spec:
YAML
  sed 's/^/  /' "$deploy/prometheus/rules/$rules.yaml"
done

# The routes name the services as Compose does; here these names lead to production.
for service in serve auth; do
  cat <<YAML
---
apiVersion: v1
kind: Service
metadata:
  name: $service
  namespace: $namespace
spec:
  type: ExternalName
  externalName: aisle-$service.aisle.svc.cluster.local
YAML
done

made() { kubectl --namespace "$namespace" create "$@" --dry-run=client --output=yaml; }
echo ---
made secret generic aisle-alertmanager --from-file="$deploy/prometheus/alertmanager.yaml"
echo ---
# Grafana's sidecar looks for the label, and puts the files into the folder that the annotation names.
made configmap aisle-dashboards --from-file="$deploy/grafana/dashboards" |
  kubectl label --local --filename - --output=yaml grafana_dashboard=1 |
  kubectl annotate --local --filename - --output=yaml grafana_folder=aisle
