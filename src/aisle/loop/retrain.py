"""A retraining, from what people corrected to the champion, one stage after the other.

    collect → version → train → gate (→ review) → shadow → canary → promote → changes → done

What a stage does may be done twice: where it is stands in the database and is written when its work is over, so a
retraining that was killed goes on where it stopped. `advance` goes as far as it can; while an experiment gathers
products, or an administrator has to say, there is nothing to do but to call it again later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from aisle.batch.changes import list_changes, notify
from aisle.clock import Clock, utc_now
from aisle.data.prepare import ensure_prepared
from aisle.data.validate import ContractOptions
from aisle.errors import CheckFailed, InputError, ServiceMissing
from aisle.experiments import run as experiments
from aisle.experiments.judge import Verdict
from aisle.files import write_json
from aisle.logs import get_logger
from aisle.loop.corrections import CATALOGUE, FOLDER, alone, collect
from aisle.loop.versions import version_by_dvc
from aisle.measuring import judge_challenger
from aisle.model.bundle import LINEAGE_FILE, MODEL_FILE, Bundle
from aisle.monitoring import stages
from aisle.pipeline import choose_recipe, train_bundle
from aisle.registry.bundles import CHAMPION, BundleStore
from aisle.registry.frozen import FROZEN_FILE, frozen_products
from aisle.registry.promotion import VERDICT_FILE, promote, register, roll_back
from aisle.settings import Settings
from aisle.store import audit, predictions, retrainings
from aisle.store.engine import open_database, reading, writing
from aisle.store.experiments import Experiment, Outcome
from aisle.store.migrate import migrate
from aisle.store.retrainings import Cause, Retraining, Stage
from aisle.training.recipes import choices_in

MOST_FAILURES = 3
"""A stage that failed so often in a row is given up."""

WHO = "aisle"

Step = tuple[Stage, Mapping[str, Any]]
"""The next stage, and what this one adds to the detail; the same stage again: there is something to wait for."""


@dataclass(frozen=True, slots=True)
class Way:
    """What is chosen at the beginning: `base` is a raw folder, `recipe` by default that of the champion, with the
    `choices` that it was trained with."""

    base: Path
    recipe: str
    contract: ContractOptions = ContractOptions()
    choices: Mapping[str, str | int] = field(default_factory=dict)


class Retrainings:
    """The retrainings of one shop: begun, advanced, approved, undone. `who` is for the audit trail."""

    def __init__(self, settings: Settings, *, who: str = WHO, clock: Clock = utc_now) -> None:
        self.settings = settings
        self.folder = settings.data_path / FOLDER
        self._who = who
        self._clock = clock
        self._store = BundleStore(settings.models_path)
        self.engine: Engine = open_database(settings.database_url)
        migrate(self.engine)

    def active(self) -> Retraining | None:
        with reading(self.engine) as connection:
            return retrainings.active(connection)

    def begin(self, cause: Cause, *, reason: str, way: Way, asked_by: str = "") -> Retraining:
        """`asked_by`: where it is somebody else than who begins it. Raises CheckFailed where one is under way."""
        detail = {
            "reason": reason,
            "base": str(way.base.resolve()),
            "recipe": way.recipe,
            "choices": dict(way.choices),
            "contract": asdict(way.contract),
        }
        with writing(self.engine) as connection:
            begun = retrainings.begin(
                connection, cause, asked_by=asked_by or self._who, at=self._clock(), detail=detail
            )
            self._audit(connection, begun, before=None)
        get_logger(__name__).info("retraining begun", id=begun.id, cause=cause.value, reason=reason)
        return begun

    def advance(self, *, tell: Callable[[Retraining], None] = lambda _: None) -> Retraining | None:
        """Go as far as there is something to do; where the retraining is then, None if there is none.

        Raises CheckFailed while another process works on it, and whatever a stage raises: it is tried again the
        next time, and given up after `MOST_FAILURES` times in a row.
        """
        with alone(self.folder):
            now = self.active()
            while now is not None and not now.is_over:
                before, now = now.stage, self._step(now)
                tell(now)
                if now.stage is before:
                    break
            return now

    def approve(self) -> Retraining:
        """An administrator lets the borderline case go on. Raises CheckFailed where none waits."""
        now = self._waiting()
        self._end_experiment(now, f"approved by {self._who}")
        approved = f"{now.detail['why']} (approved by {self._who})"
        return self._move(now, Stage(now.detail["then"]), {"approved": approved, "why": None})

    def reject(self) -> Retraining:
        """An administrator ends the borderline case. Raises CheckFailed where none waits."""
        now = self._waiting()
        self._end_experiment(now, f"rejected by {self._who}")
        return self._move(now, Stage.REFUSED, {"why": f"{now.detail['why']} (rejected by {self._who})"})

    def undo(self) -> Retraining:
        """Take back the last retraining: one under way ends, its experiment with it; a champion is rolled back.

        Raises CheckFailed where there is nothing to take back.
        """
        with reading(self.engine) as connection:
            last = next(iter(retrainings.latest(connection)), None)
        version = last.detail.get("version") if last else None
        champion = self._store.serving().champion
        is_champion = version is not None and version == champion and version != (last and last.detail["champion"])
        if last is None or (last.is_over and not (last.stage is Stage.DONE and is_champion)):
            raise CheckFailed("there is no retraining to undo", hint="`aisle retrain status` shows the last ones.")
        self._end_experiment(last, f"retraining {last.id} is undone")
        if is_champion and last.stage in (Stage.DONE, Stage.CHANGES, Stage.PROMOTE):
            roll_back(self.settings, who=self._who)
        return self._move(last, Stage.UNDONE, {"undone_by": self._who})

    def close(self) -> None:
        self.engine.dispose()

    # The stages

    def _step(self, now: Retraining) -> Retraining:
        work: Mapping[Stage, Callable[[Retraining], Step]] = {
            Stage.COLLECT: self._collect,
            Stage.VERSION: self._version,
            Stage.TRAIN: self._train,
            Stage.GATE: self._gate,
            Stage.SHADOW: self._shadow,
            Stage.CANARY: self._canary,
            Stage.PROMOTE: self._promote,
            Stage.CHANGES: self._changes,
        }
        if now.stage not in work:  # an administrator has to say
            return now
        try:
            stage, found = work[now.stage](now)
        except ServiceMissing:  # comes back by itself
            raise
        except Exception as error:
            self._failed(now, error)
            raise
        if stage is now.stage and not found:
            return now
        return self._move(now, stage, {**found, "failures": 0})

    def _failed(self, now: Retraining, error: Exception) -> None:
        failures = int(now.detail.get("failures", 0)) + 1
        stage = Stage.FAILED if failures >= MOST_FAILURES else now.stage
        get_logger(__name__).error("retraining failed", id=now.id, stage=now.stage.value, failures=failures)
        self._move(now, stage, {"failures": failures, "error": f"{now.stage}: {error}"})

    def _collect(self, now: Retraining) -> Step:
        with reading(self.engine) as connection:
            words = list(predictions.words_said(connection))
        collected = collect(
            words, Path(now.detail["base"]), self.folder, reviewer_share=self.settings.retrain_reviewer_share
        )
        return Stage.VERSION, {"collected": {**asdict(collected), "folder": str(collected.folder)}}

    def _version(self, now: Retraining) -> Step:
        return Stage.TRAIN, {"data_version": version_by_dvc(self.folder)}

    def _train(self, now: Retraining) -> Step:
        champion = self._store.serving().champion
        trained = train_bundle(
            choose_recipe(now.detail["recipe"], self.settings, **now.detail.get("choices", {})),
            self._catalogue(now),
            self.settings,
            who=self._who,
            contract=_contract(now),
        )
        found = {"version": trained.bundle.version, "champion": champion}
        serving = self._store.serving()
        if champion is None and serving.champion == trained.bundle.version:
            return Stage.CHANGES, found  # the first model of a store is the champion already
        if trained.bundle.version in (champion, *serving.rolled_back):
            return Stage.NOTHING_NEW, found
        return Stage.GATE, found

    def _gate(self, now: Retraining) -> Step:
        bundle = self._bundle(now)
        champion = self._store.serving().champion
        self._freeze(now)
        verdict = judge_challenger(bundle, self._catalogue(now), self.settings, contract=_contract(now))
        write_json(self.settings.reports_path / bundle.version / VERDICT_FILE, verdict.as_dict())
        found = {"gate": [f"{one.name}: {one.finding}" for one in verdict.criteria], "champion": champion}
        why = "; ".join(f"{one.name}: {one.finding}" for one in verdict.failed)
        if not verdict.passed and not verdict.is_borderline:
            return Stage.REFUSED, {**found, "why": why}
        register(bundle, self.settings, who=self._who)
        if verdict.is_borderline:
            return Stage.REVIEW, {**found, "why": why, "then": Stage.SHADOW.value}
        return Stage.SHADOW, {**found, "approved": None}

    def _freeze(self, now: Retraining) -> None:
        """Where nothing is frozen yet, choose from the base: a person may take back what they said of a product."""
        if not (self._store.root / FROZEN_FILE).is_file():
            base = Path(now.detail["base"])
            prepared = ensure_prepared(base, self.settings, contract=_contract(now), threads=self.settings.cores)
            frozen_products(self._store.root, prepared)

    def _shadow(self, now: Retraining) -> Step:
        return self._experiment(now, "shadow", Stage.CANARY)

    def _canary(self, now: Retraining) -> Step:
        return self._experiment(now, "canary", Stage.PROMOTE)

    def _experiment(self, now: Retraining, kind: str, after: Stage) -> Step:
        """Begin it, or see how it is; an experiment that is over, and did not show enough, ends the retraining."""
        if self._store.serving().champion != now.detail["champion"]:
            return Stage.GATE, {"why": "there is another champion by now", "shadow": None, "canary": None}
        number = now.detail.get(kind)
        if number is None:
            begun = self._begun_before(now, kind) or experiments.start(
                self.settings,
                kind,
                now.detail["version"],
                who=self._who,
                share=self.settings.retrain_canary_share if kind == "canary" else 1.0,
                products=self.settings.retrain_products,
            )
            return now.stage, {kind: begun.id}
        experiment = experiments.get(self.settings, number)
        if experiment.outcome is None:
            found = experiments.findings(self.settings, experiment)
            if found.seen >= found.wanted and found.verdict is Verdict.GO_ON:  # it answers otherwise too often
                return Stage.REVIEW, {"why": f"{kind}: {found.reason}", "then": after.value}
            experiment = experiments.finish(self.settings, experiment, who=self._who)
        ends: Mapping[Outcome | None, Step] = {
            None: (now.stage, {}),
            Outcome.ENOUGH: (after, {"why": experiment.reason}),
            Outcome.SUPERSEDED: (Stage.GATE, {kind: None, "why": experiment.reason}),
        }
        return ends.get(experiment.outcome, (Stage.STOPPED, {"why": f"{kind}: {experiment.reason}"}))

    def _begun_before(self, now: Retraining, kind: str) -> Experiment | None:
        """Where this process was killed between beginning the experiment and writing that down."""
        running = experiments.current(self.settings)
        is_ours = running is not None and (running.kind.value, running.challenger) == (kind, now.detail["version"])
        return running if is_ours else None

    def _promote(self, now: Retraining) -> Step:
        version, champion = now.detail["version"], self._store.serving().champion
        if champion == version:  # this process was killed before it could write that down
            return Stage.CHANGES, {}
        if champion != now.detail["champion"]:
            return Stage.GATE, {"why": "there is another champion by now", "shadow": None, "canary": None}
        try:
            promote(self._bundle(now), self.settings, who=self._who, **self._grounds(now))
        except CheckFailed as refusal:
            return Stage.REFUSED, {"why": str(refusal)}
        return Stage.CHANGES, {}

    def _grounds(self, now: Retraining) -> dict[str, Any]:
        """The gate's verdict once more; or, where it could not be sure, that of the administrator."""
        if approved := now.detail.get("approved"):
            return {"reason": approved}
        catalogue, contract = self._catalogue(now), _contract(now)
        return {"judge": lambda bundle: judge_challenger(bundle, catalogue, self.settings, contract=contract)}

    def _changes(self, now: Retraining) -> Step:
        """What would change in the shop; that nobody takes the message is said, and no failure of the retraining."""
        before = now.detail["champion"]
        if before is None:
            return Stage.DONE, {}
        with stages.stage("changes", self.settings, clock=self._clock):
            report = list_changes(
                self.settings, before=before, after=now.detail["version"], data=Path(now.detail["base"])
            )
        found: dict[str, Any] = {"changes": report.as_dict()}
        try:
            notify(report, self.settings)
        except ServiceMissing as error:
            get_logger(__name__).error("nobody was told of the changes", reason=str(error))
            found["webhook"] = str(error)
        return Stage.DONE, found

    # What they have in common

    def _catalogue(self, now: Retraining) -> Path:
        folder = self.folder / CATALOGUE
        if not folder.is_dir():
            raise InputError("the collected catalogue is gone", where=folder, hint=f"Retraining {now.id} needs it.")
        return folder

    def _bundle(self, now: Retraining) -> Bundle:
        return Bundle.load(self._store.find(now.detail["version"]))

    def _waiting(self) -> Retraining:
        now = self.active()
        if now is None or now.stage is not Stage.REVIEW:
            raise CheckFailed("no retraining waits for an administrator", hint="`aisle retrain status` shows them.")
        return now

    def _end_experiment(self, now: Retraining, reason: str) -> None:
        running = experiments.current(self.settings)
        if running is not None and running.challenger == now.detail.get("version"):
            experiments.stop(self.settings, running, reason=reason, who=self._who)

    def _move(self, now: Retraining, stage: Stage, found: Mapping[str, Any]) -> Retraining:
        with writing(self.engine) as connection:
            moved = retrainings.move(connection, now, stage, at=self._clock(), detail={**now.detail, **found})
            if stage is not now.stage:
                self._audit(connection, moved, before=now.stage)
        if stage is not now.stage:
            get_logger(__name__).info("retraining moved", id=now.id, stage=stage.value, before=now.stage.value)
        return moved

    def _audit(self, connection: Any, now: Retraining, *, before: Stage | None) -> None:
        after = {"stage": now.stage.value, "cause": now.cause.value, "version": now.detail.get("version")}
        if why := now.detail.get("why"):
            after["why"] = why
        audit.record(
            connection,
            who=self._who,
            what="retrain.stage",
            subject=str(now.id),
            at=self._clock(),
            before=None if before is None else {"stage": before.value},
            after=after,
        )


def champions_recipe(settings: Settings) -> tuple[str, dict[str, str | int]]:
    """The recipe that the champion was trained by, and what was chosen of it. Raises InputError without one."""
    bundle = Bundle.load(BundleStore(settings.models_path).find(CHAMPION))
    name = str(bundle.json(MODEL_FILE)["recipe"])
    return name, choices_in(name, bundle.json(LINEAGE_FILE)["configuration"])


def _contract(now: Retraining) -> ContractOptions:
    return ContractOptions(**now.detail["contract"])
