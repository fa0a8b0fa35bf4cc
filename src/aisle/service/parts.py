"""What the routes of the prediction service share, as one object in the application's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from aisle.clock import Clock
from aisle.registry.bundles import BundleStore
from aisle.service.batches import Intake
from aisle.service.batching import BatchingQueue
from aisle.service.champion import Champion
from aisle.service.experiments import Experiments
from aisle.service.explaining import Explaining
from aisle.service.handover import Handover
from aisle.service.photos import Photos
from aisle.service.recorder import Recorder
from aisle.web.draining import Draining


@dataclass(frozen=True)
class Parts:
    champion: Champion
    store: BundleStore
    queue: BatchingQueue
    recorder: Recorder
    photos: Photos
    experiments: Experiments
    explaining: Explaining
    intake: Intake
    engine: Engine
    handover: Handover
    draining: Draining
    clock: Clock


async def _parts(request: Request) -> Parts:  # not a thread's work
    parts: Parts = request.app.state.parts
    return parts


TheParts = Annotated[Parts, Depends(_parts)]
