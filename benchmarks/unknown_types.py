"""Products of a type that the model has never heard of, among others of the test side of the real catalogue.

Three types at a time are left out of what `light` (without its transformer) learns, calibrates and decides by, until
each was left out once. Is the model less sure of their products, and how many of them would it let pass?
"""

from __future__ import annotations

import statistics

from benchmarks.measure import Figure, Options

AT_ONCE = 3
PROMISE = "0.98"


def run(options: Options) -> list[Figure]:
    import numpy as np
    import polars as pl
    from sklearn.metrics import roc_auc_score

    from aisle.data.prepare import ensure_prepared
    from aisle.data.split import Side
    from aisle.settings import get_settings
    from aisle.training.checkpoints import Checkpoints
    from aisle.training.examples import Examples
    from aisle.training.light import LightLearner, image_encoder
    from aisle.training.recipes import Light

    settings, recipe = get_settings(), Light(transformer=None)
    prepared = ensure_prepared(options.real_catalogue(), settings, threads=settings.cores)
    examples = Examples(prepared, settings.cache_path, settings.cores)
    test = examples.rows(Side.TEST, graph=image_encoder(recipe, examples))
    areas, passed, unheard = [], 0, 0
    for first in range(0, len(examples.codes), AT_ONCE):
        left_out = examples.codes[first : first + AT_ONCE]
        stages = Checkpoints(settings.cache_path / "training", f"unknown-types-{first}")
        learnt = LightLearner(recipe).learn(examples.where(~pl.col("type_code").is_in(left_out)), stages)
        stages.clear()
        said = learnt.classifier.probabilities(test.inputs)
        surest = said.max(axis=1)
        is_unheard = np.isin(test.targets, [examples.codes.index(code) for code in left_out])
        areas.append(float(roc_auc_score(is_unheard, -surest)))
        threshold = learnt.thresholds[PROMISE]
        accepted = surest >= (2 if threshold is None else threshold)
        passed, unheard = passed + int(accepted[is_unheard].sum()), unheard + int(is_unheard.sum())
        print(f"  without {', '.join(left_out)}: {areas[-1]:.3f}", flush=True)
    return [
        Figure("auroc", statistics.mean(areas)),
        Figure("auroc_lowest", min(areas)),
        Figure("products_of_unheard_types", unheard),
        Figure("accepted_of_them", passed / unheard),
    ]
