"""Wait until every replica of a Deployment is ready, for the runner `kubernetes`.

    python rollout.py --namespace aisle serve

A service follows the champion by itself; what an image or a setting changes, the deployment workflow rolls out.
"""

from __future__ import annotations

import argparse
import time

from kubernetes import client, config

SECONDS = 600


def ready(status: client.V1DeploymentStatus, wanted: int) -> bool:
    return (status.updated_replicas or 0) >= wanted and (status.available_replicas or 0) >= wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--namespace", required=True)
    parser.add_argument("name")
    asked = parser.parse_args()
    config.load_incluster_config()
    deployments = client.AppsV1Api()
    deadline = time.monotonic() + SECONDS
    while True:
        found = deployments.read_namespaced_deployment(asked.name, asked.namespace)
        if found.status.observed_generation >= found.metadata.generation and ready(found.status, found.spec.replicas):
            print(f"{asked.name}: {found.status.available_replicas} replicas are ready")
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"{asked.name} in {asked.namespace} is not ready after {SECONDS} s")
        time.sleep(5)


if __name__ == "__main__":
    main()
