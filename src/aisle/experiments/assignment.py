"""Who gets the challenger: decided by a hash, so that everybody everywhere decides the same, and nothing is stored.

A unit keeps its place in [0, 1) for the whole experiment, and the challenger has the places below its share: when the
share grows, more units get it and none is taken back. Another experiment shuffles anew.
"""

from __future__ import annotations

import hashlib

from aisle.store.experiments import Arm, Experiment


def place(experiment: int, unit: str) -> float:
    """Where a unit (a product's key, a user's name) stands in an experiment: uniform in [0, 1)."""
    digest = hashlib.sha256(f"{experiment}\0{unit}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def arm_of(experiment: Experiment, unit: str) -> Arm:
    return Arm.CHALLENGER if place(experiment.id, unit) < experiment.share else Arm.CHAMPION
