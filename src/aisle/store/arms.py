"""What the database has about the two arms of an experiment, counted there: what comes back is a few numbers.

Each product counts once for whatever depends on the product: a client that sends one again and again must not decide
an experiment. A prediction of the arm of one version that the other version answered is a failure of the first.

Types are those of the challenger's table: `now` is what became of earlier ones, None for one that fell away. What
people gave a type that fell away tells nothing of either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from aisle.store.experiments import Arm, Experiment, Kind
from aisle.store.schema import feedback, predictions, shadow_predictions

P, S, F = predictions.c, shadow_predictions.c, feedback.c
NO_CHANGES: Mapping[str, str | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """`failed` are products, as `products` are; `right` of the `labelled` ones. In shadow, seconds of the challenger
    are of processor time, those of the champion from the question to the answer."""

    answers: int = 0
    products: int = 0
    failed: int = 0
    mean_seconds: float | None = None
    labelled: int = 0
    right: int = 0


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of champion and challenger that tell them apart: in how many the challenger was worse, and better."""

    worse: int = 0
    better: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`agreement`, of which `worse` are the products that they say different things of, is of shadows only."""

    champion: ArmCounts
    challenger: ArmCounts
    errors: Pairs
    latency: Pairs
    accuracy: Pairs
    agreement: Pairs | None


Now = Mapping[str, str | None]


def compare(connection: Connection, experiment: Experiment, *, slower: float, now: Now = NO_CHANGES) -> Comparison:
    """`slower`: a challenger that takes more than so many times the champion's seconds is worse in that pair."""
    if experiment.kind is Kind.SHADOW:
        return _shadow(connection, experiment, slower, now)
    return _arms(connection, experiment, slower, now)


def _shadow(connection: Connection, experiment: Experiment, slower: float, now: Now) -> Comparison:
    product = (
        select(
            func.count().label("answers"),
            func.max(_one_if(S.error.is_not(None))).label("failed"),
            func.max(S.agrees).label("agrees"),
            func.avg(S.seconds).label("seconds"),
            func.avg(S.champion_seconds).label("champion_seconds"),
        )
        .where(S.experiment_id == experiment.id)
        .group_by(S.input_hash)
        .subquery()
    ).c
    is_slower = product.seconds > slower * product.champion_seconds
    found = connection.execute(
        select(
            _sum(product.answers).label("answers"),
            func.count().label("products"),
            _sum(product.failed).label("failed"),
            _sum(product.agrees).label("agree"),
            func.count(product.agrees).label("judged"),
            _sum(_one_if(is_slower)).label("slower"),
            func.count(product.seconds).label("timed"),
            func.avg(product.seconds).label("seconds"),
            func.avg(product.champion_seconds).label("champion_seconds"),
        )
    ).one()
    said = _labelled(experiment, now, S.predicted.label("challenger_said")).join(
        shadow_predictions, S.prediction_id == P.id
    )
    last = said.where(S.predicted.is_not(None)).subquery().c
    champion_right, challenger_right = last.predicted == last.type_code, last.challenger_said == last.type_code
    labels = connection.execute(
        select(
            func.count().label("labelled"),
            _sum(_one_if(champion_right)).label("champion"),
            _sum(_one_if(challenger_right)).label("challenger"),
            _sum(_one_if(and_(champion_right, ~challenger_right))).label("worse"),
            _sum(_one_if(and_(challenger_right, ~champion_right))).label("better"),
        ).where(last.turn == 1)
    ).one()
    return Comparison(
        champion=ArmCounts(
            found.answers, found.products, 0, found.champion_seconds, labels.labelled, labels.champion
        ),
        challenger=ArmCounts(
            found.answers, found.products, found.failed, found.seconds, labels.labelled, labels.challenger
        ),
        errors=Pairs(worse=found.failed),
        latency=Pairs(worse=found.slower, better=found.timed - found.slower),
        accuracy=Pairs(labels.worse, labels.better),
        agreement=Pairs(worse=found.judged - found.agree, better=found.agree),
    )


def _arms(connection: Connection, experiment: Experiment, slower: float, now: Now) -> Comparison:
    is_its = P.experiment_id == experiment.id
    answers = select(P.arm, func.count(), func.count(P.input_hash.distinct()), func.avg(P.seconds))
    counts = {row[0]: row[1:] for row in connection.execute(answers.where(is_its).group_by(P.arm))}
    failures = select(P.arm, func.count(P.input_hash.distinct())).where(is_its, _failed(experiment)).group_by(P.arm)
    failed: dict[Any, int] = {row[0]: row[1] for row in connection.execute(failures)}
    labels = _labels_of_arms(connection, experiment, now)

    def arm(name: Arm, labelled: int, right: int) -> ArmCounts:
        answered, products, seconds = counts.get(name, (0, 0, None))
        return ArmCounts(answered, products, failed.get(name, 0), seconds, labelled, right)

    return Comparison(
        champion=arm(Arm.CHAMPION, labels.of_champion, labels.champion),
        challenger=arm(Arm.CHALLENGER, labels.of_challenger, labels.challenger),
        errors=Pairs(worse=failed.get(Arm.CHALLENGER, 0), better=failed.get(Arm.CHAMPION, 0)),
        latency=_latency_of_neighbours(connection, experiment, slower),
        accuracy=Pairs(labels.worse, labels.better),
        agreement=None,
    )


def _latency_of_neighbours(connection: Connection, experiment: Experiment, slower: float) -> Pairs:
    """Each of the challenger's with the one just before, where that is the champion's: both had the same load."""
    in_time = (P.created_at, P.arm, P.input_hash)
    row = (
        select(
            P.arm,
            P.seconds,
            func.lag(P.arm).over(order_by=in_time).label("arm_before"),
            func.lag(P.seconds).over(order_by=in_time).label("seconds_before"),
        )
        .where(P.experiment_id == experiment.id)
        .subquery()
    ).c
    is_slower = row.seconds > slower * row.seconds_before
    found = connection.execute(
        select(func.count(), _sum(_one_if(is_slower))).where(
            row.arm == Arm.CHALLENGER, row.arm_before == Arm.CHAMPION, row.seconds.is_not(None)
        )
    ).one()
    return Pairs(worse=found[1], better=found[0] - found[1])


def _labels_of_arms(connection: Connection, experiment: Experiment, now: Now) -> Row[int, int, int, int, int, int]:
    """The first labelled product of the one arm is compared with the first of the other, and so on."""
    last = _labelled(experiment, now).where(~_failed(experiment)).subquery().c
    turn = (
        select(
            last.arm,
            _one_if(last.predicted == last.type_code).label("is_right"),
            func.row_number().over(partition_by=last.arm, order_by=last.first_said).label("place"),
        )
        .where(last.turn == 1)
        .subquery()
    ).c

    def of(arm: Arm) -> ColumnElement[int]:
        return func.max(case((turn.arm == arm, turn.is_right)))

    pair = (
        select(of(Arm.CHAMPION).label("champion"), of(Arm.CHALLENGER).label("challenger"))
        .group_by(turn.place)
        .subquery()
    ).c
    return connection.execute(
        select(
            func.count(pair.champion).label("of_champion"),
            _sum(pair.champion).label("champion"),
            func.count(pair.challenger).label("of_challenger"),
            _sum(pair.challenger).label("challenger"),
            _sum(_one_if(pair.champion > pair.challenger)).label("worse"),
            _sum(_one_if(pair.champion < pair.challenger)).label("better"),
        )
    ).one()


def _labelled(experiment: Experiment, now: Now, *more: ColumnElement[Any]) -> Select[Any]:
    """What people said of the products of each arm: the last word on a product has `turn` 1."""
    product = (P.arm, P.input_hash)
    return (
        select(
            P.arm,
            _today(P.predicted, now).label("predicted"),
            _today(F.type_code, now).label("type_code"),
            func.row_number().over(partition_by=product, order_by=F.id.desc()).label("turn"),
            func.min(F.id).over(partition_by=product).label("first_said"),
            *more,
        )
        .select_from(feedback)
        .join(predictions, P.id == F.prediction_id)
        .where(P.experiment_id == experiment.id, F.type_code.not_in([code for code in now if now[code] is None]))
    )


def _today(column: ColumnElement[str], now: Now) -> ColumnElement[str]:
    mapped = {code: today for code, today in now.items() if today is not None}
    return case(mapped, value=column, else_=column) if mapped else column


def _failed(experiment: Experiment) -> ColumnElement[bool]:
    version = literal(experiment.challenger)
    return or_(
        and_(P.arm == Arm.CHALLENGER, P.model_version != version),
        and_(P.arm == Arm.CHAMPION, P.model_version == version),
    )


def _one_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


def _sum(column: ColumnElement[Any]) -> ColumnElement[int]:
    """An integer, and 0 of no rows, on either engine."""
    return cast(func.coalesce(func.sum(column), 0), Integer)
