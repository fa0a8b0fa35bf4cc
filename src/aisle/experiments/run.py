"""Starting, watching and ending an experiment, for whoever has the settings: the command line, a retraining.

The database alone says that an experiment runs; the services find its challenger in the bundle store, by version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace

from sqlalchemy import Engine

from aisle.catalog import TypeChanges
from aisle.clock import utc_now
from aisle.errors import CheckFailed, InputError, UsageError
from aisle.experiments.judge import Findings, Rules, judge
from aisle.registry.bundles import BundleStore
from aisle.registry.promotion import checked
from aisle.settings import Settings
from aisle.store import experiments
from aisle.store.engine import open_database, reading, writing
from aisle.store.experiments import Experiment, Kind, Outcome
from aisle.store.migrate import migrate

SHARES = {Kind.SHADOW: 1.0, Kind.CANARY: 0.1, Kind.AB: 0.5}
"""Of the products, where nothing is said: a shadow costs nobody an answer."""


def start(
    settings: Settings,
    kind: str,
    challenger: str,
    *,
    who: str,
    share: float | None = None,
    products: int | None = None,
    rules: Rules | None = None,
) -> Experiment:
    """Let `challenger`, a version of the bundle store or `challenger`, run beside the champion.

    `products`: how many are enough, if it is not what `rules` say. Raises UsageError for a kind, share or rule that
    cannot be, InputError and BundleError for a challenger that could not serve, CheckFailed where another experiment
    runs, ServiceMissing without the database.
    """
    chosen = _kind(kind)
    share = _checked_share(chosen, SHARES[chosen] if share is None else share)
    rules = rules or Rules()
    if products is not None:
        rules = replace(rules, products=products)
    if chosen is not Kind.AB and rules.unit != "product":
        raise UsageError(f"a {chosen} is by product", hint="`aisle experiment start ab --unit user` is by user.")
    store = BundleStore(settings.models_path)
    champion = store.serving().champion
    if champion is None:
        raise InputError("there is no champion", where=store.root, hint="`aisle run` makes the first one.")
    with _database(settings) as engine:
        with reading(engine) as connection:  # before a bundle is loaded, which takes seconds
            experiments.refuse_a_second(connection)
        version = _version(store, challenger, champion)
        with writing(engine) as connection:
            return experiments.start(
                connection,
                kind=chosen,
                champion=champion,
                challenger=version,
                share=share,
                rules=asdict(rules),
                who=who,
                at=utc_now(),
            )


def current(settings: Settings) -> Experiment | None:
    """The one that runs."""
    with _database(settings) as engine, reading(engine) as connection:
        return experiments.current(connection)


def get(settings: Settings, number: int) -> Experiment:
    """Raises InputError for a number that none has."""
    with _database(settings) as engine, reading(engine) as connection:
        return experiments.get(connection, number)


def latest(settings: Settings, *, count: int = 20) -> list[Experiment]:
    """The newest first."""
    with _database(settings) as engine, reading(engine) as connection:
        return experiments.latest(connection, count=count)


def findings(settings: Settings, experiment: Experiment) -> Findings:
    """As they are now."""
    with _database(settings) as engine, reading(engine) as connection:
        return judge(connection, experiment, _changes(settings, experiment))


def _changes(settings: Settings, experiment: Experiment) -> TypeChanges:
    return BundleStore(settings.models_path).changes_of(experiment.challenger)


def set_share(settings: Settings, share: float, *, who: str) -> Experiment:
    """Let more products get the challenger. Raises UsageError for less: nobody who got it is to lose it again."""
    with _database(settings) as engine, writing(engine) as connection:
        running = _running(experiments.current(connection))
        _checked_share(running.kind, share)
        if share < running.share:
            raise UsageError(
                f"the share is {running.share:g}, and only grows: nobody who got the challenger is to lose it again",
                hint="`aisle experiment stop` gives everything back to the champion.",
            )
        experiments.set_share(connection, running.id, share, who=who, at=utc_now())
        return experiments.get(connection, running.id)


def stop(settings: Settings, experiment: Experiment | None = None, *, reason: str, who: str) -> Experiment:
    """End this one, or the one that runs: every product is the champion's again. One that is over stays as it is.

    Raises CheckFailed where none was named and none runs.
    """
    with _database(settings) as engine:
        with reading(engine) as connection:
            ended = experiment or _running(experiments.current(connection))
            found = judge(connection, ended, _changes(settings, ended))
        return _end(engine, ended, Outcome.STOPPED, reason, found, who)


def finish(settings: Settings, experiment: Experiment, *, who: str) -> Experiment:
    """End one that has seen enough and is not worse; any other goes on, and one that is over stays as it is."""
    with _database(settings) as engine:
        with reading(engine) as connection:
            found = judge(connection, experiment, _changes(settings, experiment))
            if not found.has_enough:
                return experiments.get(connection, experiment.id)
        return _end(engine, experiment, Outcome.ENOUGH, found.reason, found, who)


def _end(
    engine: Engine, experiment: Experiment, outcome: Outcome, reason: str, found: Findings, who: str
) -> Experiment:
    with writing(engine) as connection:
        experiments.end(
            connection,
            experiment.id,
            outcome=outcome,
            reason=reason,
            findings=found.as_dict(),
            who=who,
            at=utc_now(),
        )
        return experiments.get(connection, experiment.id)


@contextlib.contextmanager
def _database(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings.database_url)
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()


def _kind(name: str) -> Kind:
    try:
        return Kind(name)
    except ValueError:
        raise UsageError(
            f"there is no experiment of the kind {name!r}", hint=f"There is {', '.join(Kind)}."
        ) from None


def _checked_share(kind: Kind, share: float) -> float:
    """With everything at the challenger there is nobody left to compare it with, but for a shadow."""
    if not 0 < share <= 1 or (share == 1 and kind is not Kind.SHADOW):
        bound = "above 0, and 1 at most" if kind is Kind.SHADOW else "above 0 and below 1"
        raise UsageError(f"the share of a {kind} is {share:g}: it has to be {bound}")
    return share


def _version(store: BundleStore, name: str, champion: str) -> str:
    """The version of a challenger that gives its known answer."""
    path = store.find(name)
    version = checked(path).version
    if path != store.root / version:
        hint = f"`aisle registry register {name}` puts it there."
        raise UsageError(
            "the challenger is not in the bundle store, where services look for it", where=path, hint=hint
        )
    if version == champion:
        raise UsageError(f"{version} is the champion: it cannot be its own challenger")
    return version


def _running(found: Experiment | None) -> Experiment:
    if found is None:
        raise CheckFailed("no experiment is running", hint="`aisle experiment start` starts one.")
    return found
