"""How a task of the pipeline is done: in containers, in pods, or in a virtual environment.

    AISLE_RUNNER=docker       images built here, verbs in containers, services by Docker Compose
    AISLE_RUNNER=kubernetes   images from a registry, verbs in pods, services are Deployments
    AISLE_RUNNER=local        one virtual environment, verbs and services are processes

Where things are: `AISLE_WORKSPACE` (the clone that the pipeline owns, absolute), `AISLE_REPOSITORY` (what it is a
clone of). Secrets reach a task by its environment, never by its command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset

HERE = Path(__file__).resolve().parents[1]
PASSED_ON = (
    "DAGSHUB_USERNAME", "DAGSHUB_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "S3_ENDPOINT_URL",
    "PUSHGATEWAY_URL",
)  # fmt: skip
PREFIXES_PASSED_ON = ("DRIFT_", "RETRAIN_", "CHANGES_")
RENAMED = {"DATABASE_URL": "AISLE_DATABASE_URL", "MLFLOW_TRACKING_URI": "AISLE_MLFLOW_TRACKING_URI"}
"""What the tasks' own settings are called here, where Airflow has settings of these names, too."""

CATALOGUE = Asset("aisle_catalogue")
"""There is a new version of it when `ml_pipeline` has imported one and is done with it; others may say so by
Airflow's API."""

DOCKER_QUEUE = "docker"
"""Only a worker that takes this queue needs Docker's socket."""


class Runner(Protocol):
    """`target` is a stage of the Dockerfile; `before` is a command that comes first."""

    def image(self, task_id: str, target: str, *, before: str = "") -> Any: ...

    def verbs(self, task_id: str, target: str, commands: Sequence[str], *, hours: int) -> Any: ...

    def service(self, task_id: str, name: str) -> Any: ...


def chosen_runner() -> Runner:
    """The runner that `AISLE_RUNNER` names, by default docker."""
    name = os.environ.get("AISLE_RUNNER", "docker")
    runners = {"docker": DockerRunner, "kubernetes": KubernetesRunner, "local": LocalRunner}
    if name not in runners:
        raise ValueError(f"AISLE_RUNNER is {name!r}; there are {', '.join(runners)}")
    return runners[name](workspace())


def workspace() -> str:
    return os.environ.get("AISLE_WORKSPACE", "/var/lib/aisle/workspace")


def prepare_workspace() -> str:
    """The command that brings the clone up to date and writes the run's parameters into it."""
    return (
        f"{sys.executable} {HERE}/workspace.py prepare --recipe {{{{ params.recipe }}}}"
        " --source '{{ params.source }}' --rows {{ params.rows }} --seed {{ params.seed }}"
    )


def update_workspace() -> str:
    """The command that brings the clone up to date, and leaves its parameters as they are."""
    return f"{sys.executable} {HERE}/workspace.py update"


def record_versions(task_id: str, what: str, *stages: str, outlets: Sequence[Any] = ()) -> BashOperator:
    """A task that records by DVC what the stages left, and commits that in the clone."""
    message = f"{what} of {{{{ run_id }}}} ({{{{ params.source }}}}, {{{{ params.recipe }}}})"
    return _workspace(task_id, f"record '{message}' {' '.join(stages)}", outlets=list(outlets))


def add_versions(task_id: str, what: str, folder: str, *names: str) -> BashOperator:
    """A task that gives DVC what no stage of dvc.yaml makes, and commits that in the clone."""
    return _workspace(task_id, f"add '{what} of {{{{ run_id }}}}' {folder} {' '.join(names)}")


def _workspace(task_id: str, words: str, **more: Any) -> BashOperator:
    return BashOperator(
        task_id=task_id, bash_command=f"{sys.executable} {HERE}/workspace.py {words}", append_env=True, **more
    )


def settings_of_verbs() -> dict[str, str]:
    given = {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PREFIXES_PASSED_ON)
    }
    given |= {name: os.environ.get(ours, "") for name, ours in RENAMED.items()}
    return {"RUN_SOURCE": "airflow", **{name: value for name, value in given.items() if value}}


def in_a_row(commands: Sequence[str]) -> str:
    return "\n".join(["set -e", *commands])


class DockerRunner:
    """Images are built from the workspace, verbs see its folder `data` and the application's models."""

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.project = os.environ.get("AISLE_PROJECT", "aisle")
        self.registry = os.environ.get("AISLE_REGISTRY", "aisle")
        self.version = os.environ.get("AISLE_VERSION", "dev")
        self.env_file = os.environ.get("AISLE_ENV_FILE", f"{workspace}/.env")

    def image(self, task_id: str, target: str, *, before: str = "") -> BashOperator:
        # The last commit that changed the code: those of the pipeline itself only record versions.
        revision = "$(git -c safe.directory='*' log -1 --format=%H -- src pyproject.toml requirements Dockerfile)"
        return BashOperator(
            task_id=task_id,
            bash_command=in_a_row(
                [
                    *([before] if before else []),
                    f"cd {self.workspace}",
                    *self._shared_with_compose(),
                    f"docker build --target {target} --tag {self.registry}/{target}:{self.version}"
                    f' --build-arg REVISION="{revision}" ${{AISLE_BUILD_OPTIONS:-}} .',
                ]
            ),
            env={"DOCKER_BUILDKIT": "1"},
            append_env=True,
            queue=DOCKER_QUEUE,
        )

    def _shared_with_compose(self) -> list[str]:
        """The volume and the network that the tasks share with the application, as Compose would create them."""
        labels = f"--label com.docker.compose.project={self.project}"
        return [
            f"docker volume create {labels} --label com.docker.compose.volume={one} {self.project}_{one} >/dev/null"
            for one in ("models", "logs")
        ] + [
            f"docker network inspect {self.project}_jobs >/dev/null 2>&1 || docker network create {labels}"
            f" --label com.docker.compose.network=jobs {self.project}_jobs >/dev/null"
        ]

    def verbs(self, task_id: str, target: str, commands: Sequence[str], *, hours: int) -> Any:
        from airflow.providers.docker.operators.docker import DockerOperator
        from docker.types import Mount

        return DockerOperator(
            task_id=task_id,
            image=f"{self.registry}/{target}:{self.version}",
            entrypoint=["sh", "-c"],
            command=[in_a_row(commands)],
            private_environment=settings_of_verbs(),
            mounts=[
                Mount("/app/data", f"{self.workspace}/data", type="bind"),
                Mount("/app/models", f"{self.project}_models", type="volume"),
                Mount("/app/logs", f"{self.project}_logs", type="volume"),
            ],
            network_mode=f"{self.project}_jobs",
            docker_url=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
            mount_tmp_dir=False,
            auto_remove="force",
            queue=DOCKER_QUEUE,
            execution_timeout=timedelta(hours=hours),
        )

    def service(self, task_id: str, name: str) -> BashOperator:
        compose = f"docker compose --project-name {self.project} --project-directory {self.workspace}"
        return BashOperator(
            task_id=task_id,
            bash_command=in_a_row(
                [
                    f"test -f {self.env_file} || sh {self.workspace}/deploy/secrets.sh {self.env_file}",
                    f"{compose} --env-file {self.env_file} up --detach --wait --no-build {name}",
                ]
            ),
            env={"AISLE_REGISTRY": self.registry, "AISLE_VERSION": self.version},
            append_env=True,
            queue=DOCKER_QUEUE,
        )


class KubernetesRunner:
    """Verbs see the claims `aisle-data` and `aisle-models`; the services are there, and follow the champion."""

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.namespace = os.environ.get("AISLE_NAMESPACE", "aisle")
        self.registry = os.environ.get("AISLE_REGISTRY", "aisle")
        self.version = os.environ.get("AISLE_VERSION", "dev")

    def image(self, task_id: str, target: str, *, before: str = "") -> Any:
        """A registry has the image: it is pulled, and shown to start. What comes first runs in Airflow instead."""
        if before:
            return BashOperator(task_id=task_id, bash_command=before, append_env=True)
        return self._pod(task_id, target, ["aisle", "--version"], hours=1)

    def verbs(self, task_id: str, target: str, commands: Sequence[str], *, hours: int) -> Any:
        return self._pod(task_id, target, ["sh", "-c", in_a_row(commands)], hours=hours)

    def service(self, task_id: str, name: str) -> BashOperator:
        return BashOperator(
            task_id=task_id,
            bash_command=f"{sys.executable} {HERE}/rollout.py --namespace {self.namespace} aisle-{name}",
            append_env=True,
        )

    def _pod(self, task_id: str, target: str, command: Sequence[str], *, hours: int) -> Any:
        from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
        from kubernetes.client import models as k8s

        claims = {"data": "aisle-data", "models": "aisle-models"}
        # Airflow has the claim at /var/lib/aisle, so that DVC sees in the workspace what the pods leave.
        mounts = [
            k8s.V1VolumeMount(name="data", mount_path="/app/data", sub_path="workspace/data"),
            *(k8s.V1VolumeMount(name=name, mount_path=f"/app/{name}") for name in ("models", "logs")),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108
        ]
        return KubernetesPodOperator(
            task_id=task_id,
            name=f"aisle-{target}",
            namespace=self.namespace,
            image=f"{self.registry}/{target}:{self.version}",
            cmds=list(command),
            labels={"app.kubernetes.io/name": "aisle", "app.kubernetes.io/component": "pipeline"},
            service_account_name="aisle",
            env_vars={"RUN_SOURCE": "airflow", "PUSHGATEWAY_URL": os.environ.get("PUSHGATEWAY_URL", "")},
            env_from=[k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name="aisle-pipeline", optional=True))],
            volumes=[
                *(
                    k8s.V1Volume(
                        name=name,
                        persistent_volume_claim=k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim),
                    )
                    for name, claim in claims.items()
                ),
                *(k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource()) for name in ("logs", "tmp")),
            ],
            volume_mounts=mounts,
            container_resources=k8s.V1ResourceRequirements(
                requests={"cpu": "1", "memory": "2Gi"}, limits={"memory": os.environ.get("AISLE_POD_MEMORY", "8Gi")}
            ),
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=10001,
                run_as_group=10001,
                fs_group=10001,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            container_security_context=k8s.V1SecurityContext(
                allow_privilege_escalation=False,
                read_only_root_filesystem=True,
                capabilities=k8s.V1Capabilities(drop=["ALL"]),
            ),
            automount_service_account_token=False,
            on_finish_action="delete_succeeded_pod",
            execution_timeout=timedelta(hours=hours),
        )


class LocalRunner:
    """One environment: `AISLE_VENV`, or `.venv` of the workspace, which is made where it is missing."""

    def __init__(self, workspace: str) -> None:
        self.workspace = workspace
        self.venv = os.environ.get("AISLE_VENV", f"{workspace}/.venv")

    def image(self, task_id: str, target: str, *, before: str = "") -> BashOperator:
        """Where there are no images: an environment that has what the target needs."""
        install = f"test -x {self.venv}/bin/aisle || make --directory {self.workspace} environment"
        return self._bash(task_id, [*([before] if before else []), install, "aisle --version"], {})

    def verbs(self, task_id: str, target: str, commands: Sequence[str], *, hours: int) -> BashOperator:
        return self._bash(
            task_id, commands, settings_of_verbs(), cwd=self.workspace, execution_timeout=timedelta(hours=hours)
        )

    def service(self, task_id: str, name: str) -> BashOperator:
        return self._bash(task_id, [f"{HERE}/service.sh start {name}"], settings_of_verbs(), cwd=self.workspace)

    def _bash(self, task_id: str, commands: Sequence[str], settings: dict[str, str], **more: Any) -> BashOperator:
        # Only the settings that are meant for the verbs: Airflow's own environment stays outside.
        path = f"{self.venv}/bin:{os.environ.get('PATH', os.defpath)}"
        return BashOperator(
            task_id=task_id, bash_command=in_a_row(commands), env={"PATH": path, **settings}, append_env=True, **more
        )
