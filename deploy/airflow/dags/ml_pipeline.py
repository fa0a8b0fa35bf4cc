"""From the catalogue to the API: data, training, test, serving; thirteen tasks, as in the original project.

Each task translates: an image is built, verbs of aisle are called in it, their results are recorded by DVC, a
service is started. How that is done (containers, pods, or a virtual environment) is the choice of `AISLE_RUNNER`, in
`runners.py`. A run can be repeated: a task that is run again does the same again, and records nothing where nothing
changed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param, TaskGroup
from runners import CATALOGUE, chosen_runner, prepare_workspace, record_versions

# The same commands as the stages of dvc.yaml, which is how DVC knows what they made.
FETCH = (
    "aisle import --source '{{ params.source }}' --rows {{ params.rows }} --seed {{ params.seed }} --to data/raw",
    "aisle validate --data data/raw --out data/validated --max-bad 0.01",
    "aisle prepare --data data/validated --out data/preprocessed",
)
TRAIN = (
    "aisle train --recipe {{ params.recipe }}"
    "{{ ' --weights ' + params.weights if params.recipe == 'lstm-vgg16' else '' }}"
    " --data data/preprocessed --out data/model",
    "aisle registry register data/model",
    "aisle registry mirror || [ $? -eq 5 ]",  # MLflow away: the next mirroring catches up
)
TEST = (
    "aisle evaluate --model data/model --data data/preprocessed --report data/evaluation",
    "[ ! -f data/raw/X_test_update.csv ] || aisle predict data/raw/X_test_update.csv --images data/raw"
    " --model data/model --output data/predictions/X_test_update.csv",
    "aisle registry promote --data data/preprocessed || [ $? -eq 4 ]",  # the gate says no: the champion stays
)

with DAG(
    "ml_pipeline",
    description="From the catalogue to the API",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "aisle",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "execution_timeout": timedelta(hours=1),
    },
    params={
        "source": Param(
            "sample",
            type="string",
            pattern=r"^(sample|huggingface|s3://[A-Za-z0-9._/-]+|/[A-Za-z0-9._/-]+)$",
            description="The catalogue: sample, huggingface, s3://BUCKET/PREFIX or a folder.",
        ),
        "recipe": Param("light", type="string", enum=["light", "lstm-vgg16"], description="How to train."),
        "rows": Param(2700, type="integer", minimum=300, maximum=100_000, description="Products of the sample."),
        "seed": Param(0, type="integer", minimum=0, description="Seed of the sample."),
        "weights": Param(
            "auto", type="string", enum=["auto", "imagenet", "none"], description="What VGG16 begins with."
        ),
    },
    tags=["aisle"],
) as dag:
    runner = chosen_runner()

    with TaskGroup("data") as data:
        (
            runner.image("image", "data", before=prepare_workspace())
            >> runner.verbs("fetch", "data", FETCH, hours=6)
            >> record_versions("version", "data", "import", "validate", "prepare")
        )
    with TaskGroup("training") as training:
        (
            runner.image("image", "train")
            >> runner.verbs("train", "train", TRAIN, hours=24)
            >> record_versions("version", "model", "train")
        )
    with TaskGroup("test") as test:
        (
            runner.image("image", "predict")
            >> runner.verbs("test", "predict", TEST, hours=6)
            >> record_versions("version", "predictions", "evaluate", "predict", outlets=[CATALOGUE])
        )
    with TaskGroup("serving") as serving:
        (
            runner.image("auth_image", "auth")
            >> runner.service("auth_up", "auth")
            >> runner.image("api_image", "serve")
            >> runner.service("api_up", "serve")
        )
    data >> training >> test >> serving
