"""What the manifests of deploy/kubernetes promise, seen in what the real kustomize makes of them."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from ruamel.yaml import YAML
from sqlalchemy import make_url
from tests.deploy_kubectl import KUBERNETES, kubectl, verified
from tests.deploy_tools import REPOSITORY, tool

from aisle.auth.app import MAX_BODY as AUTH_MAX_BODY
from aisle.auth.app import create_app as create_token_service
from aisle.auth.serve import open_accounts
from aisle.batch.bulk import ROWS_WITH_IMAGES
from aisle.service.app import PUBLIC
from aisle.service.batches import BODY_SECONDS
from aisle.service.routes import batches
from aisle.service.uploads import MAX_BODY_BYTES
from aisle.settings import Settings
from aisle.web.draining import SETTLE_SECONDS
from aisle.web.serving import STOP_SECONDS

pytestmark = pytest.mark.slow

ROOT = REPOSITORY / "deploy" / "kubernetes"
OVERLAYS = {"staging": "aisle-staging", "production": "aisle"}
COMPONENT = "app.kubernetes.io/component"
PAGE = REPOSITORY / "docs" / "kubernetes.md"
CLUSTER_SCOPED = {"Namespace"}

Object = dict[str, Any]
Secrets = dict[tuple[str, str], dict[str, str]]
"""Keys and values, by namespace and name."""


@dataclass(frozen=True)
class Rendered:
    """What kustomize makes of a folder: the file, and the objects in it."""

    file: Path
    objects: list[Object]

    def of(self, *kinds: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    def workloads(self) -> list[Object]:
        return self.of("Deployment", "Job", "StatefulSet", "DaemonSet", "CronJob", "Pod")

    def containers(self) -> Iterator[tuple[str, Object]]:
        """Each container of each pod, and a name to complain with."""
        for workload in self.workloads():
            pod = pod_of(workload)
            for container in pod["containers"] + pod.get("initContainers", []):
                yield f"{workload['metadata']['name']}/{container['name']}", container


def pod_of(workload: Object) -> Object:
    pod: Object = workload["spec"]["template"]["spec"]
    return pod


def labels_of(workload: Object) -> dict[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def build(folder: Path, to: Path) -> Rendered:
    subprocess.run([kubectl(), "kustomize", str(folder), "--output", str(to)], check=True, timeout=60)
    yaml = YAML(typ="safe", pure=True)
    return Rendered(to, [one for one in yaml.load_all(to.read_text()) if one])


@pytest.fixture(scope="session", params=sorted(OVERLAYS))
def environment(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def overlay(environment: str, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """An environment, as it is applied."""
    return build(ROOT / "overlays" / environment, tmp_path_factory.mktemp("overlay") / f"{environment}.yaml")


@pytest.fixture(scope="session")
def publish(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The Job that brings a champion in."""
    return build(ROOT / "publish", tmp_path_factory.mktemp("publish") / "publish.yaml")


@pytest.fixture(scope="session")
def everything(overlay: Rendered, publish: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """An environment and the Job beside it, for what every pod promises."""
    file = tmp_path_factory.mktemp("everything") / "everything.yaml"
    file.write_text(overlay.file.read_text() + "---\n" + publish.file.read_text())
    return Rendered(file, overlay.objects + publish.objects)


# Whole


def test_every_object_is_one_that_kubernetes_takes(everything: Rendered) -> None:
    command = [
        tool("kubernetes-validate"),
        "--strict",
        "--kubernetes-version",
        f"{KUBERNETES}.0",
        str(everything.file),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") == len(everything.objects)


def test_checkov_finds_nothing(everything: Rendered, tmp_path: Path) -> None:
    settings = ["--config-file", str(ROOT / "checkov.yaml"), "--file", str(everything.file)]
    done = subprocess.run(
        [tool("checkov"), *settings],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Passed checks: [1-9]\d+, Failed checks: 0", done.stdout), done.stdout + done.stderr


def test_everything_is_in_the_namespace_of_its_environment(overlay: Rendered, environment: str) -> None:
    namespace = OVERLAYS[environment]
    assert overlay.of("Namespace")[0]["metadata"]["name"] == namespace
    for one in overlay.objects:
        if one["kind"] not in CLUSTER_SCOPED:
            assert one["metadata"]["namespace"] == namespace, one["kind"]


def test_a_release_puts_its_digest_in_the_place_of_every_image(environment: str, tmp_path: Path) -> None:
    base = os.path.relpath(ROOT / "overlays" / environment, tmp_path)
    digest = f"sha256:{'0' * 64}"
    images = "".join(
        f'  - {{name: aisle/{target}, newName: ghcr.io/shop/aisle/{target}, digest: "{digest}"}}\n'
        for target in ("serve", "auth", "predict")
    )
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{base}]\nimages:\n{images}")
    released = build(tmp_path, tmp_path / "released.yaml")
    used = {container["image"] for _, container in released.containers()}
    assert used == {f"ghcr.io/shop/aisle/{target}@{digest}" for target in ("serve", "auth", "predict")}


# Pods


def test_no_container_is_root_may_become_it_or_writes_its_root(everything: Rendered) -> None:
    for workload in everything.workloads():
        context = pod_of(workload)["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["runAsGroup"]) == (10001, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for name, container in everything.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


def test_the_namespace_refuses_pods_that_are_less_restricted(overlay: Rendered) -> None:
    labels = overlay.of("Namespace")[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["pod-security.kubernetes.io/enforce-version"] == f"v{KUBERNETES}"


def test_no_pod_has_a_token_of_the_kubernetes_api(everything: Rendered) -> None:
    assert [one["automountServiceAccountToken"] for one in everything.of("ServiceAccount")] == [False]
    for workload in everything.workloads():
        assert pod_of(workload)["automountServiceAccountToken"] is False
        assert pod_of(workload)["serviceAccountName"] == "aisle"


def test_every_container_has_requests_and_limits(everything: Rendered) -> None:
    for name, container in everything.containers():
        for part in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][part]), name


def services_of(overlay: Rendered) -> list[Object]:
    """The Deployments that answer over HTTP."""
    names = {one["metadata"]["name"] for one in overlay.of("Service")}
    found = [one for one in overlay.of("Deployment") if one["metadata"]["name"] in names]
    assert len(found) == len(names) == 2
    return found


def probes_of(deployment: Object) -> dict[str, Object]:
    (container,) = pod_of(deployment)["containers"]
    return {probe: container[f"{probe}Probe"] for probe in ("startup", "liveness", "readiness")}


def test_every_deployment_has_all_three_probes(overlay: Rendered) -> None:
    for deployment in overlay.of("Deployment"):
        assert all("httpGet" in probe or "exec" in probe for probe in probes_of(deployment).values())


def test_every_service_is_asked_whether_it_lives_and_is_ready(overlay: Rendered) -> None:
    for deployment in services_of(overlay):
        paths = {name: probe["httpGet"]["path"] for name, probe in probes_of(deployment).items()}
        assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}


@pytest.mark.parametrize("probe", ["startup", "liveness", "readiness"])
def test_a_worker_lives_whose_heartbeat_is_new(overlay: Rendered, probe: str, tmp_path: Path) -> None:
    deployment = overlay.named("Deployment", "aisle-worker")
    (container,) = pod_of(deployment)["containers"]
    heartbeat = container["args"][container["args"].index("--heartbeat") + 1]
    file = tmp_path / "heartbeat"
    command = [word.replace(heartbeat, str(file)) for word in probes_of(deployment)[probe]["exec"]["command"]]
    assert str(file) in " ".join(command)

    def lives() -> bool:
        return subprocess.run(command, check=False, timeout=10, stderr=subprocess.DEVNULL).returncode == 0

    assert not lives()
    file.touch()
    assert lives()
    minute_ago = time.time() - 61
    os.utime(file, (minute_ago, minute_ago))
    assert not lives()


def test_the_heartbeat_of_a_worker_is_in_memory_of_its_own_pod(overlay: Rendered) -> None:
    pod = pod_of(overlay.named("Deployment", "aisle-worker"))
    (container,) = pod["containers"]
    heartbeat = Path(container["args"][container["args"].index("--heartbeat") + 1])
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == str(heartbeat.parent)]
    (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
    assert "emptyDir" in volume


def test_a_new_pod_has_a_minute_to_start(overlay: Rendered) -> None:
    for deployment in overlay.of("Deployment"):
        (container,) = pod_of(deployment)["containers"]
        probe = container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 60


def test_serve_has_a_thread_for_each_core_that_it_may_use(overlay: Rendered) -> None:
    (container,) = pod_of(overlay.named("Deployment", "aisle-serve"))["containers"]
    threads = {one["name"]: one["value"] for one in container["env"]}["THREADS"]
    assert threads == container["resources"]["limits"]["cpu"]


def test_serve_reads_the_bundle_store_and_cannot_write_it(overlay: Rendered) -> None:
    pod = pod_of(overlay.named("Deployment", "aisle-serve"))
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["mountPath"] == "/app/models"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == mount["name"]]
    assert mount["readOnly"] is True
    assert volume["persistentVolumeClaim"] == {"claimName": "aisle-models", "readOnly": True}


def test_every_claim_that_a_pod_mounts_is_there(everything: Rendered) -> None:
    claims = {one["metadata"]["name"] for one in everything.of("PersistentVolumeClaim")}
    for workload in everything.workloads():
        for volume in pod_of(workload)["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


# Settings and secrets


def settings_of(overlay: Rendered) -> dict[str, str]:
    (found,) = overlay.of("ConfigMap")
    data: dict[str, str] = found["data"]
    return data


def test_every_variable_is_one_that_aisle_or_python_knows(everything: Rendered) -> None:
    known = {name.upper() for name in Settings.model_fields}
    assert set(settings_of(everything)) <= known
    for name, container in everything.containers():
        assert {one["name"] for one in container.get("env", [])} <= known | {"TMPDIR"}, name


def test_an_upload_is_taken_in_on_the_volume_where_it_stays(overlay: Rendered) -> None:
    (container,) = pod_of(overlay.named("Deployment", "aisle-serve"))["containers"]
    folder = {one["name"]: one["value"] for one in container["env"]}["TMPDIR"]
    (mount,) = [one for one in container["volumeMounts"] if one["mountPath"] == folder]
    assert Path(folder) == Path("/app") / Settings().batches_path
    assert not mount.get("readOnly")


def test_serve_and_its_workers_share_what_batches_are_made_of(overlay: Rendered) -> None:
    shared = []
    for name in ("aisle-serve", "aisle-worker"):
        pod = pod_of(overlay.named("Deployment", name))
        (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "batches"]
        (volume,) = [one for one in pod["volumes"] if one["name"] == "batches"]
        shared.append((mount, volume))
    assert shared[0] == shared[1]
    claim = overlay.named("PersistentVolumeClaim", shared[0][1]["persistentVolumeClaim"]["claimName"])
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_aisle_takes_the_settings(overlay: Rendered) -> None:
    (container,) = pod_of(overlay.named("Deployment", "aisle-serve"))["containers"]
    values = settings_of(overlay) | {one["name"]: one["value"] for one in container["env"]}
    taken = Settings.model_validate({name.lower(): value for name, value in values.items()})
    assert taken.auth_url == "http://aisle-auth:8011"


def test_serve_asks_the_token_service_where_it_is(overlay: Rendered) -> None:
    service = overlay.named("Service", "aisle-auth")
    (port,) = service["spec"]["ports"]
    assert settings_of(overlay)["AUTH_URL"] == f"http://{service['metadata']['name']}:{port['port']}"


def test_a_changed_setting_starts_new_pods(environment: str, overlay: Rendered, tmp_path: Path) -> None:
    base = os.path.relpath(ROOT / "overlays" / environment, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        f"namespace: {OVERLAYS[environment]}\nresources: [{base}]\n"
        "configMapGenerator:\n  - {name: aisle-settings, behavior: merge, literals: [LOG_LEVEL=ERROR]}\n"
    )
    changed = build(tmp_path, tmp_path / "changed.yaml")
    for before in overlay.of("Deployment"):
        assert pod_of(changed.named("Deployment", before["metadata"]["name"])) != pod_of(before)


def secret_keys(rendered: Rendered) -> Iterator[tuple[str, str, str]]:
    """Every secret's name, key, and the file in /run/secrets that it becomes."""
    for workload in rendered.workloads():
        for volume in pod_of(workload)["volumes"]:
            parts = [one["secret"] for one in volume.get("projected", {}).get("sources", []) if "secret" in one]
            parts += [volume["secret"]] if "secret" in volume else []
            for part in parts:
                for item in part["items"]:
                    yield part.get("name", part.get("secretName")), item["key"], item["path"]


def test_no_object_holds_the_value_of_a_secret(everything: Rendered) -> None:
    assert everything.of("Secret") == []
    secret = {name.upper() for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
    secret |= {"DATABASE_URL", "REDIS_URL"}
    assert not secret & set(settings_of(everything))
    for name, container in everything.containers():
        assert not secret & {one["name"] for one in container.get("env", [])}, name
    assert re.search(r"://[^/\s]*:[^/\s]*@", everything.file.read_text()) is None


def test_every_secret_is_a_setting_and_is_documented(everything: Rendered) -> None:
    found = set(secret_keys(everything))
    page = PAGE.read_text()
    assert {key for _, key, _ in found} == {
        "database_url", "redis_url", "signing_key_passphrase", "bootstrap_admin_password",
    }  # fmt: skip
    for name, key, file in found:
        assert file in Settings.model_fields
        assert f"`{name}`" in page
        assert f"`{key}`" in page


KUBECTL_THAT_PRINTS = """#!/bin/sh
case " $* " in
  *" create secret "*) {kubectl} "$@" --dry-run=client --output=yaml; echo --- ;;
  *" get "*) exit 1 ;;
esac >> {printed}
"""


def generate(environment: str, folder: Path) -> Secrets:
    """What secrets.sh makes: the keys and values of each secret, by namespace and name."""
    folder.mkdir()
    printed = folder / "printed.yaml"
    script = folder / "kubectl"
    script.write_text(KUBECTL_THAT_PRINTS.format(kubectl=kubectl(), printed=printed))
    script.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run([str(ROOT / "secrets.sh"), environment], check=True, env={"PATH": path}, timeout=60)
    objects = [one for one in YAML(typ="safe", pure=True).load_all(printed.read_text()) if one]
    return {
        (one["metadata"]["namespace"], one["metadata"]["name"]): {
            key: base64.b64decode(value).decode() for key, value in one["data"].items()
        }
        for one in objects
        if one["kind"] == "Secret"
    }


@pytest.fixture(scope="session")
def generated(environment: str, tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    return generate(environment, tmp_path_factory.mktemp("secrets") / "first")


def test_every_secret_that_a_pod_asks_for_is_generated(
    everything: Rendered, environment: str, generated: Secrets
) -> None:
    for name, key, _ in secret_keys(everything):
        assert generated[OVERLAYS[environment], name][key]


def test_every_secret_that_a_chart_is_given_is_generated(environment: str, generated: Secrets) -> None:
    namespace = OVERLAYS[environment]
    postgres = {"username", "password"}
    assert {place: set(keys) for place, keys in generated.items() if place[0] != namespace} == {
        (f"{namespace}-data", "aisle-postgres-owner"): postgres,
        (f"{namespace}-data", "airflow-postgres-owner"): postgres,
        (f"{namespace}-data", "aisle-redis-users"): {"default"},
        ("monitoring", "grafana-admin"): {"username", "password"},
    }


def test_aisle_takes_what_is_generated(environment: str, generated: Secrets) -> None:
    namespace = OVERLAYS[environment]
    taken = Settings.model_validate(generated[namespace, "aisle"] | generated[namespace, "aisle-first-admin"])
    address = make_url(taken.database_url)
    owner = generated[f"{namespace}-data", "aisle-postgres-owner"]
    assert (address.username, address.password) == (owner["username"], owner["password"])
    assert (address.drivername, address.host) == ("postgresql+psycopg", f"aisle-postgres-rw.{namespace}-data")
    password = generated[f"{namespace}-data", "aisle-redis-users"]["default"]
    assert taken.redis_url == f"redis://:{password}@aisle-redis.{namespace}-data:6379/0"


def test_airflow_takes_what_is_generated(environment: str, generated: Secrets) -> None:
    keys = generated[OVERLAYS[environment], "airflow"]
    assert set(keys) == {"connection", "fernet-key", "api-secret-key", "jwt-secret"}
    Fernet(keys["fernet-key"])
    owner = generated[f"{OVERLAYS[environment]}-data", "airflow-postgres-owner"]
    assert make_url(keys["connection"]).password == owner["password"]


def test_no_generated_password_is_there_twice(environment: str, generated: Secrets, tmp_path: Path) -> None:
    again = generate(environment, tmp_path / "again")
    passwords = [
        value
        for found in (generated, again)
        for keys in found.values()
        for key, value in keys.items()
        if key not in {"username", "database_url", "redis_url", "connection"}
    ]
    assert len(set(passwords)) == len(passwords) == 2 * 9
    assert min(map(len, passwords)) >= 40


def test_a_secret_that_is_there_is_not_replaced(environment: str, tmp_path: Path) -> None:
    there = tmp_path / "kubectl"
    there.write_text('#!/bin/sh\ncase " $* " in *" create secret "*) exit 1 ;; esac\n')
    there.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run([str(ROOT / "secrets.sh"), environment], check=False, env={"PATH": path}, timeout=60)
    assert done.returncode == 1


def test_secrets_are_mounted_where_aisle_looks(everything: Rendered) -> None:
    for workload in everything.workloads():
        (container,) = pod_of(workload)["containers"]
        (mount,) = [one for one in container["volumeMounts"] if one["name"] == "secrets"]
        assert mount == {"name": "secrets", "mountPath": "/run/secrets", "readOnly": True}


def test_only_the_token_service_sees_the_passphrase(everything: Rendered) -> None:
    for workload in everything.workloads():
        keys = {key for _, key, _ in secret_keys(Rendered(everything.file, [workload]))}
        assert ("signing_key_passphrase" in keys) == (workload["metadata"]["name"] == "aisle-auth")


# A roll-out, a drain and more load


def test_a_roll_out_never_has_fewer_pods_than_before(overlay: Rendered) -> None:
    for deployment in overlay.of("Deployment"):
        strategy = deployment["spec"]["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_a_service_that_goes_has_the_time_to_answer_everybody(overlay: Rendered) -> None:
    drain = float(settings_of(overlay)["DRAIN_SECONDS"])
    for deployment in services_of(overlay):
        pod = pod_of(deployment)
        (container,) = pod["containers"]
        turning_away = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert turning_away >= 5
        needed = turning_away + drain + SETTLE_SECONDS + STOP_SECONDS
        assert pod["terminationGracePeriodSeconds"] > needed


SLOWEST = 10
"""Products with images that a core does in a second at least; `benchmarks bulk` measures eight times that."""


def test_a_worker_that_goes_has_the_time_to_end_a_piece(overlay: Rendered) -> None:
    worker = pod_of(overlay.named("Deployment", "aisle-worker"))
    (container,) = worker["containers"]
    cpu = float(container["resources"]["limits"]["cpu"])
    processes = int(container["args"][container["args"].index("--processes") + 1])
    assert cpu >= processes
    assert worker["terminationGracePeriodSeconds"] >= ROWS_WITH_IMAGES / SLOWEST


def test_a_node_can_always_be_drained(overlay: Rendered) -> None:
    budgets = {one["metadata"]["name"]: one["spec"] for one in overlay.of("PodDisruptionBudget")}
    pods = {one["metadata"]["name"]: one["spec"]["minReplicas"] for one in overlay.of("HorizontalPodAutoscaler")}
    for deployment in overlay.of("Deployment"):
        name = deployment["metadata"]["name"]
        replicas = pods.get(name) or deployment["spec"]["replicas"]
        assert replicas >= 2
        assert 1 <= budgets[name]["maxUnavailable"] < replicas
        assert "minAvailable" not in budgets[name]
        assert budgets[name]["selector"]["matchLabels"].items() <= labels_of(deployment).items()


def test_the_autoscaler_scales_a_deployment_that_names_no_number_itself(overlay: Rendered) -> None:
    (scaler,) = overlay.of("HorizontalPodAutoscaler")
    target = overlay.named(scaler["spec"]["scaleTargetRef"]["kind"], scaler["spec"]["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"]
    assert scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    (metric,) = scaler["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"


def test_pods_spread_over_nodes_and_zones(overlay: Rendered) -> None:
    for deployment in overlay.of("Deployment"):
        spread = pod_of(deployment)["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        for one in spread:
            assert one["labelSelector"]["matchLabels"].items() <= labels_of(deployment).items()


def test_a_failed_migration_is_tried_again_and_comes_to_an_end(overlay: Rendered) -> None:
    job = overlay.named("Job", "aisle-migrate")["spec"]
    assert job["backoffLimit"] > 0
    assert job["activeDeadlineSeconds"] <= 600  # as long as roll-out.sh waits
    assert pod_of({"spec": job})["containers"][0]["args"] == ["migrate"]


# Reaching


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels; only what the manifests use is understood."""
    matching: dict[str, str] = selector.get("matchLabels", {})
    among = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in among)
    return matching.items() <= labels.items() and all(labels.get(one["key"]) in one["values"] for one in among)


def test_every_service_selects_the_pods_of_one_deployment(overlay: Rendered) -> None:
    for service in overlay.of("Service"):
        selector = service["spec"]["selector"]
        (found,) = [one for one in overlay.workloads() if selector.items() <= labels_of(one).items()]
        assert found["metadata"]["name"] == service["metadata"]["name"]
        ports = {one["name"] for one in pod_of(found)["containers"][0]["ports"]}
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports


def test_every_deployment_selects_its_own_pods(overlay: Rendered) -> None:
    for deployment in overlay.of("Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert [one for one in overlay.workloads() if selector.items() <= labels_of(one).items()] == [deployment]


def paths_of(ingress: Object) -> dict[str, str]:
    (rule,) = ingress["spec"]["rules"]
    return {one["path"]: one["pathType"] for one in rule.get("http", {}).get("paths", [])}


def of_service(overlay: Rendered, name: str) -> list[Object]:
    """The Ingresses that lead to a service."""
    return [one for one in overlay.of("Ingress") if one["metadata"]["labels"][COMPONENT] == name]


def ingress_for(overlay: Rendered, name: str, route: str) -> Object:
    """The one Ingress that takes a route of a service."""
    (found,) = [
        ingress
        for ingress in of_service(overlay, name)
        for path, kind in paths_of(ingress).items()
        if route == path or (kind == "Prefix" and route.startswith(f"{path.rstrip('/')}/"))
    ]
    return found


def routes_of_serve() -> set[str]:
    routes = {route.path for router in PUBLIC for route in router.routes}
    return routes | {"/status", "/livez", "/docs", "/openapi.json"}


def test_every_route_but_the_metrics_is_reached_from_outside(overlay: Rendered, tmp_path: Path) -> None:
    routes = routes_of_serve()
    for route in routes:
        assert ingress_for(overlay, "serve", route), route
    opened = {path for ingress in of_service(overlay, "serve") for path in paths_of(ingress)}
    assert opened <= routes
    settings = Settings(database_url=f"sqlite:///{tmp_path}/aisle.db")
    engine = open_accounts(settings)
    tokens = {route.path for route in create_token_service(engine, settings).routes}  # type: ignore[attr-defined]
    engine.dispose()
    described = {"/docs", "/docs/oauth2-redirect", "/openapi.json", "/redoc"}
    assert set(paths_of(overlay.named("Ingress", "aisle-auth"))) == tokens - described - {"/metrics"}


MERGEABLE = "nginx.org/mergeable-ingress-type"
OF_A_HOST = {"nginx.org/hsts", "nginx.org/hsts-max-age", "nginx.org/redirect-to-https", "nginx.org/server-snippets"}
"""What the controller takes out of a minion."""


def test_a_host_that_several_ingresses_share_has_one_master(overlay: Rendered) -> None:
    for host in {ingress["spec"]["rules"][0]["host"] for ingress in overlay.of("Ingress")}:
        sharing = [one for one in overlay.of("Ingress") if one["spec"]["rules"][0]["host"] == host]
        kinds = [one["metadata"]["annotations"].get(MERGEABLE) for one in sharing]
        if len(sharing) == 1:
            assert kinds == [None]
            continue
        assert sorted(kinds) == ["master"] + ["minion"] * (len(sharing) - 1)
        for ingress, kind in zip(sharing, kinds, strict=True):
            assert bool(paths_of(ingress)) == (kind == "minion")
            assert ("tls" in ingress["spec"]) == (kind == "master")
            if kind == "minion":
                assert not OF_A_HOST & set(ingress["metadata"]["annotations"])


def test_every_path_from_outside_leads_to_a_service(overlay: Rendered) -> None:
    for ingress in overlay.of("Ingress"):
        (rule,) = ingress["spec"]["rules"]
        for path in rule.get("http", {}).get("paths", []):
            to = path["backend"]["service"]
            service = overlay.named("Service", to["name"])
            assert to["port"]["name"] in {one["name"] for one in service["spec"]["ports"]}


def test_nothing_is_reached_without_tls(overlay: Rendered) -> None:
    with_tls = [ingress for ingress in overlay.of("Ingress") if "tls" in ingress["spec"]]
    hosts = [rule["host"] for ingress in with_tls for rule in ingress["spec"]["rules"]]
    assert len(hosts) == len(set(hosts)) == 2
    for ingress in overlay.of("Ingress"):
        assert {one["host"] for one in ingress["spec"]["rules"]} <= set(hosts)
    for ingress in with_tls:
        assert [one["host"] for one in ingress["spec"]["rules"]] == ingress["spec"]["tls"][0]["hosts"]
        assert ingress["spec"]["tls"][0]["secretName"] == f"{ingress['metadata']['name']}-tls"


def test_the_proxy_takes_a_body_as_large_as_the_service_does(overlay: Rendered) -> None:
    largest = dict.fromkeys(routes_of_serve(), f"{MAX_BODY_BYTES >> 20}m")
    largest |= {route: f"{Settings().batch_max_mib}m" for route in largest if route.startswith(batches.PATH)}
    for route, limit in largest.items():
        annotations = ingress_for(overlay, "serve", route)["metadata"]["annotations"]
        assert annotations["nginx.org/client-max-body-size"] == limit, route
    annotations = overlay.named("Ingress", "aisle-auth")["metadata"]["annotations"]
    assert annotations["nginx.org/client-max-body-size"] == f"{AUTH_MAX_BODY >> 10}k"


def test_the_proxy_waits_for_an_upload_as_long_as_the_service_does(overlay: Rendered) -> None:
    annotations = ingress_for(overlay, "serve", batches.PATH)["metadata"]["annotations"]
    for way in ("read", "send"):
        assert annotations[f"nginx.org/proxy-{way}-timeout"] == f"{BODY_SECONDS}s"


def test_environments_have_hosts_of_their_own(tmp_path: Path) -> None:
    built = [build(ROOT / "overlays" / name, tmp_path / f"{name}.yaml") for name in OVERLAYS]
    hosts = [rule["host"] for one in built for ingress in one.of("Ingress") for rule in ingress["spec"]["rules"]]
    assert len(set(hosts)) == 2 * len(OVERLAYS)


# What may talk to what


def peer_name(peer: Object) -> str:
    """A short name of one end of a rule: the component here, or namespace/what elsewhere, or the block."""
    if "ipBlock" in peer:
        return str(peer["ipBlock"]["cidr"])
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    pods = "+".join(value for label, value in labels.items() if label != "app.kubernetes.io/name" or value != "aisle")
    namespace = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    return "/".join(part for part in (namespace, pods) if part) or "anything"


def allowed(rendered: Rendered, labels: dict[str, str], way: str) -> set[str]:
    """What all policies together let a pod with these labels do, `ingress` or `egress`."""
    ends = {"ingress": "from", "egress": "to"}
    return {
        f"{peer}:{port['port']}"
        for policy in rendered.of("NetworkPolicy")
        if selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get(way, [])
        for peer in map(peer_name, rule.get(ends[way], [{}]))
        for port in rule["ports"]
    }


def component(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "aisle", COMPONENT: name}


def test_what_nobody_allows_is_refused(overlay: Rendered) -> None:
    refusing = overlay.named("NetworkPolicy", "default-deny")["spec"]
    assert refusing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


DNS = {"kube-system/kube-dns:53"}


def outside(port: int) -> set[str]:
    return {f"nginx-ingress:{port}", f"monitoring/prometheus:{port}", f"monitoring/alertmanager:{port}"}


@pytest.mark.parametrize(
    ("name", "into", "out_to"),
    [
        ("serve", outside(8000), {"auth:8011", "DATA/aisle-postgres:5432", "DATA/aisle-redis:6379"}),
        ("auth", outside(8011) | {"serve:8011"}, {"DATA/aisle-postgres:5432", "DATA/aisle-redis:6379"}),
        ("migrate", set(), {"DATA/aisle-postgres:5432"}),
        ("publish", set(), {"DATA/aisle-postgres:5432"}),
        ("worker", set(), {"DATA/aisle-postgres:5432"}),
        ("pipeline", set(), {"DATA/aisle-postgres:5432", "0.0.0.0/0:443", "prometheus-pushgateway:9091"}),
        ("something else", set(), set()),
    ],
)
def test_each_pod_reaches_what_it_needs_and_nothing_else(
    overlay: Rendered, environment: str, name: str, into: set[str], out_to: set[str]
) -> None:
    data = f"{OVERLAYS[environment]}-data"
    assert allowed(overlay, component(name), "ingress") == into
    assert allowed(overlay, component(name), "egress") == {one.replace("DATA", data) for one in out_to} | DNS


def test_every_pod_is_one_that_the_policies_know(everything: Rendered) -> None:
    for workload in everything.workloads():
        name = labels_of(workload)[COMPONENT]
        assert labels_of(workload).items() >= component(name).items()
        assert allowed(everything, labels_of(workload), "egress") > DNS


def test_the_pipeline_cannot_reach_the_inside_of_the_cluster_by_address(overlay: Rendered) -> None:
    rules = overlay.named("NetworkPolicy", "pipeline")["spec"]["egress"]
    (rule,) = [one for one in rules if "ipBlock" in one["to"][0]]
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
    assert private <= set(rule["to"][0]["ipBlock"]["except"])


def test_what_the_verbs_told_is_seen_by_prometheus_alone(overlay: Rendered) -> None:
    labels = {"app.kubernetes.io/name": "prometheus-pushgateway"}
    assert allowed(overlay, labels, "ingress") == {"pipeline:9091", "monitoring/prometheus:9091"}
    assert allowed(overlay, labels, "egress") == DNS


def test_airflow_reaches_itself_its_database_and_the_kubernetes_api(overlay: Rendered, environment: str) -> None:
    labels = {"tier": "airflow", "release": "airflow", "component": "scheduler"}
    itself = {f"airflow+airflow:{port}" for port in (8080, 8793, 8794)}
    data = f"{OVERLAYS[environment]}-data/airflow-postgres:5432"
    assert allowed(overlay, labels, "ingress") == itself
    assert allowed(overlay, labels, "egress") == itself | DNS | {data, "anything:443", "anything:6443"}


def test_the_pipeline_is_allowed_to_look_at_deployments_and_nothing_else(overlay: Rendered, environment: str) -> None:
    assert overlay.of("ClusterRole", "ClusterRoleBinding") == []
    (role,) = overlay.of("Role")
    assert role["rules"] == [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}]
    (binding,) = overlay.of("RoleBinding")
    (subject,) = binding["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "airflow-scheduler", "namespace": OVERLAYS[environment]}


# Watching


@pytest.fixture(scope="session")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """What watching.sh prints."""
    folder = tmp_path_factory.mktemp("watching")
    (folder / "kubectl").symlink_to(kubectl())
    path = f"{folder}:{os.environ['PATH']}"
    printed = subprocess.check_output([str(ROOT / "watching.sh")], env={"PATH": path}, timeout=60)
    (folder / "watching.yaml").write_bytes(printed)
    return Rendered(folder / "watching.yaml", [one for one in YAML(typ="safe", pure=True).load_all(printed) if one])


def test_the_rules_of_a_cluster_are_those_of_the_files(watching: Rendered) -> None:
    yaml = YAML(typ="safe", pure=True)
    found = {one["metadata"]["name"]: one["spec"] for one in watching.of("PrometheusRule")}
    files = {
        f"aisle-{file.stem}": yaml.load(file) for file in (REPOSITORY / "deploy/prometheus/rules").glob("*.yaml")
    }
    assert found == {name: spec for name, spec in files.items() if name != "aisle-machine"}


def test_alertmanager_reads_the_routes_and_the_key_where_the_chart_mounts_them(watching: Rendered) -> None:
    values = YAML(typ="safe", pure=True).load(ROOT / "charts/monitoring.yaml")["alertmanager"]["alertmanagerSpec"]
    secret = watching.named("Secret", values["configSecret"])
    routes = base64.b64decode(secret["data"]["alertmanager.yaml"]).decode()
    assert routes == (REPOSITORY / "deploy/prometheus/alertmanager.yaml").read_text()
    (mount,) = values["volumeMounts"]
    assert f"client_secret_file: {mount['mountPath']}/alertmanager_key\n" in routes
    assert values["volumes"] == [
        {"name": mount["name"], "secret": {"secretName": "aisle-alertmanager-key", "optional": True}}
    ]
    assert "--from-file=alertmanager_key=/dev/stdin" in PAGE.read_text()


def test_the_names_in_the_routes_lead_to_the_services(watching: Rendered, tmp_path: Path) -> None:
    production = build(ROOT / "overlays/production", tmp_path / "production.yaml")
    routes = (REPOSITORY / "deploy/prometheus/alertmanager.yaml").read_text()
    for name, port in re.findall(r"http://(\w+):(\d+)/", routes):
        leads_to = watching.named("Service", name)["spec"]["externalName"]
        service, namespace, *cluster = leads_to.split(".")
        assert cluster == ["svc", "cluster", "local"]
        found = production.named("Service", service)
        assert found["metadata"]["namespace"] == namespace
        assert int(port) in {one["port"] for one in found["spec"]["ports"]}


def test_grafana_is_given_every_dashboard_in_a_folder_of_their_own(watching: Rendered) -> None:
    (found,) = watching.of("ConfigMap")
    assert found["metadata"]["labels"] == {"grafana_dashboard": "1"}
    values = YAML(typ="safe", pure=True).load(ROOT / "charts/monitoring.yaml")["grafana"]["sidecar"]["dashboards"]
    assert found["metadata"]["annotations"] == {values["folderAnnotation"]: "aisle"}
    folder = REPOSITORY / "deploy/grafana/dashboards"
    assert found["data"] == {file.name: file.read_text() for file in folder.iterdir()}


# The tool itself


def test_a_kubectl_with_another_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="has the hash sha512-"):
        verified(b"not the package", "sha512-AAAA")
