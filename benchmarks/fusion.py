"""The fusion of seven models of others (`model_probabilities_dev.npz`), in five folds: what it is worth and promises.

Each fold is judged by a fusion, and by thresholds, that were fitted on the other four. Beside it stands one logistic
regression over all log-probabilities, whose strength is chosen to its advantage: by its log-loss on these very folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Figure, Options, Skipped

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aisle.model.calibration import Array

FOLDS, SEED, RESAMPLES = 5, 0, 1000
STRENGTHS = (0.01, 0.03, 0.1, 0.3)
FILE = "model_probabilities_dev.npz"
F1_GAIN, LOG_LOSS, COVERAGE = 0.007, 0.255, {"0.98": 0.83, "0.99": 0.75}


def run(options: Options) -> Sequence[Figure]:
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score, roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    from aisle.model.calibration import calibration_error_by_chance
    from aisle.training.evaluate import measure
    from aisle.training.probabilities import join, read_probabilities

    file = options.real / FILE
    if not file.is_file():
        raise Skipped(f"there is no {file.name} in {options.real}; --real names its folder")
    said = read_probabilities(file)
    targets, codes = said.targets, said.codes
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(targets, targets))
    texts = [name for name in said.logs if name.startswith("text_")]
    columns = np.concatenate(list(said.logs.values()), axis=1)

    stacked, of_texts = (np.empty((len(said), len(codes))) for _ in range(2))
    plain = {strength: np.empty_like(stacked) for strength in STRENGTHS}
    taken: dict[str, list[tuple[int, int]]] = {promise: [] for promise in ("0.95", *COVERAGE)}
    for rest, here in folds:
        joined = join(said.at(here), said.at(rest))
        stacked[here] = joined.probabilities
        left = said.at(here).of(texts)
        of_texts[here] = np.exp(joined.fusion.log_probabilities(left.logs, left.present))
        right = stacked[here].argmax(axis=1) == targets[here]
        for promise, one in taken.items():
            threshold = joined.thresholds[promise]
            accepted = stacked[here].max(axis=1) >= (np.inf if threshold is None else threshold)
            one.append((int(accepted.sum()), int(right[accepted].sum())))
        for strength, answers in plain.items():
            regression = LogisticRegression(C=strength, max_iter=2000).fit(columns[rest], targets[rest])
            answers[here] = regression.predict_proba(columns[here])

    def figures(probabilities: Array) -> dict[str, Any]:
        return measure(probabilities, targets, codes)

    def f1(guesses: NDArray[np.intp], rows: NDArray[np.intp]) -> float:
        return float(f1_score(targets[rows], guesses[rows], average="weighted"))

    ours = figures(stacked)
    baseline = min((figures(one) for one in plain.values()), key=lambda one: one["log_loss"])
    best_plain = min(plain.values(), key=lambda one: figures(one)["log_loss"])
    single = max(figures(np.exp(one))["weighted_f1"] for one in said.logs.values())
    generator = np.random.default_rng(SEED)
    guessed, guessed_plainly = stacked.argmax(axis=1), best_plain.argmax(axis=1)
    resampled = [generator.integers(0, len(said), len(said)) for _ in range(RESAMPLES)]
    scores = np.array([f1(guessed, rows) for rows in resampled])
    gains = scores - np.array([f1(guessed_plainly, rows) for rows in resampled])
    confidence = stacked.max(axis=1)
    perfect = calibration_error_by_chance(confidence, certainty=0.95, resamples=RESAMPLES, random=generator)
    out_of_place = []
    for column in range(len(codes)):
        others = np.delete(stacked, column, axis=1)  # as if nobody had ever heard of this type
        surest = others.max(axis=1) / others.sum(axis=1)
        out_of_place.append(roc_auc_score(targets == column, -surest))
    text_alone = max(figures(np.exp(said.logs[name]))["weighted_f1"] for name in texts)
    found = [
        Figure("weighted_f1", ours["weighted_f1"], at_least=round(baseline["weighted_f1"] + F1_GAIN, 6)),
        Figure("weighted_f1_low", float(np.quantile(scores, 0.025))),
        Figure("weighted_f1_high", float(np.quantile(scores, 0.975))),
        Figure("best_single_model_weighted_f1", single),
        Figure("logistic_regression_weighted_f1", baseline["weighted_f1"]),
        Figure("logistic_regression_log_loss", baseline["log_loss"]),
        Figure("gain_weighted_f1", float(ours["weighted_f1"] - baseline["weighted_f1"]), at_least=F1_GAIN),
        Figure("gain_weighted_f1_low", float(np.quantile(gains, 0.025))),
        Figure("gain_weighted_f1_high", float(np.quantile(gains, 0.975))),
        Figure("log_loss", ours["log_loss"], at_most=LOG_LOSS),
        Figure("calibration_error", ours["calibration_error"], at_most=round(perfect, 6)),
        Figure("texts_alone_weighted_f1", figures(of_texts)["weighted_f1"], at_least=round(text_alone - 0.002, 6)),
        Figure("type_held_out_auroc", float(np.mean(out_of_place))),
    ]
    for promise, one in taken.items():
        accepted, right = np.sum(one, axis=0)
        found += [
            Figure(f"coverage_at_{promise}", float(accepted / len(said)), at_least=COVERAGE.get(promise)),
            Figure(f"accuracy_at_{promise}", float(right / accepted), at_least=float(promise)),
        ]
    return found
