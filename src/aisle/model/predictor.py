"""`Predictor.predict(products) -> outcomes`: a batch in, one outcome a product out, in order.

It takes a bundle and nothing else, and knows nothing of HTTP, tables or clusters. A product gets the same
probabilities, bit for bit, alone or in any batch.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aisle.catalog import Candidate, Decision, ImageTraits, Prediction, Product
from aisle.errors import ImageError, InputError
from aisle.inputs.image import Pixels
from aisle.inputs.text import clean
from aisle.model.bundle import MODEL_FILE, Bundle, label_of, refused_if_malformed
from aisle.model.calibration import Array
from aisle.model.classifier import DESCRIPTION, LOOKS_AT, Inputs
from aisle.model.decisions import certainty, cost_matrix
from aisle.model.image import Features, ImageEncoder
from aisle.model.neighbours import Neighbours

Observe = Callable[[str, float], None]
Outcome = Prediction | InputError
"""What is said of a product; an InputError where there was nothing to look at."""
Seen = Features | ImageError | None
"""What an image encoder made of an image; None: there was none, or no model looks at images."""
Looked = Seen | tuple[Features, ImageTraits]
"""The same, and perhaps what the image is like."""


class Predictor:
    """A loaded bundle. Raises BundleError for one that cannot predict.

    `predict` may be called from several threads; images use `threads` cores (0: all).

    `observe` is told how many seconds a stage took, from any thread: `decode` and `image` for each image, `text`
    (what every model says) and `fusion` for each batch.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int = 0, top_k: int = 5, observe: Observe = lambda *_: None
    ) -> None:
        self.bundle = bundle
        self._observe = observe
        self.version = bundle.version
        with refused_if_malformed(bundle.path):
            # First, while there is little else: to read a graph takes its size twice, for a moment.
            graph = bundle.encoder_graph()
            self.encoder = ImageEncoder(graph) if graph is not None else None
            self.classifier = bundle.classifier()
            types, model = bundle.types(), bundle.json(MODEL_FILE)
            self._types_id = types.id
            self._types = [label_of(types, code) for code in self.classifier.codes]
            self.recipe = str(model["recipe"])
            decision = model["decision"]
            threshold = decision["thresholds"][decision["promise"]]
            self._costs = cost_matrix(decision.get("costs", ()), self.classifier.codes)
            self.threshold = None if threshold is None else float(threshold)
            self._axes = bundle.axes()
            self._try_out()
        self._top_k = min(top_k, len(self._types))
        self.threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="encode")
        self._is_closed = False

    def accepts(self, probabilities: Array) -> NDArray[np.bool_]:
        """n: whether no person need look at a product with these probabilities, n x types."""
        if self.threshold is None:
            return np.zeros(len(probabilities), dtype=bool)
        sure: NDArray[np.bool_] = certainty(probabilities, self._costs) >= self.threshold
        return sure

    def predict(self, products: Sequence[Product], *, seen: Sequence[Seen] | None = None) -> list[Outcome]:
        """A product whose image is damaged is judged by its texts, and the prediction's `image_error` says so.

        `seen` is what the encoder of this bundle makes of their images, if that is known: nobody looks at them then.
        """
        inputs, looked = self._look_at(products, seen)
        started = time.perf_counter()
        scores = self.classifier.scores(inputs)
        scored = time.perf_counter()
        probabilities = self.classifier.fused(scores, inputs)
        self._observe("text", scored - started)
        self._observe("fusion", time.perf_counter() - scored)
        present = self.classifier.models.present(inputs)
        return [self._outcome(*row) for row in zip(probabilities, present, looked, strict=True)]

    def inputs(
        self, products: Sequence[Product], *, seen: Sequence[Seen] | None = None
    ) -> tuple[Inputs, list[ImageError | None]]:
        """The products after the one way in, and for each why its image could not be looked at, or None.

        Where no model looks at descriptions, a description stands in for a title that is missing. `seen` is as for
        `predict`.
        """
        inputs, looked = self._look_at(products, seen)
        return inputs, [one if isinstance(one, ImageError) else None for one in looked]

    def _look_at(
        self, products: Sequence[Product], seen: Sequence[Seen] | None = None
    ) -> tuple[Inputs, Sequence[Looked]]:
        encoded: Iterable[Looked]
        if seen is not None:
            encoded = seen
        elif self.threads == 1:  # here: to hand each image to another thread and back would gain nothing
            if self._is_closed:
                raise RuntimeError("the predictor is closed")  # as the threads say where there are more
            encoded = map(self._encode, products)
        else:
            encoded = self._pool.map(self._encode, products)  # runs while the texts are cleaned
        titles = [clean(product.title) for product in products]
        descriptions = [clean(product.description) for product in products]
        if not any(DESCRIPTION in LOOKS_AT[name] for name in self.classifier.models.names()):
            titles = [title or description for title, description in zip(titles, descriptions, strict=True)]
        looked: list[Looked] = list(encoded)
        features = [
            None if isinstance(one, ImageError) else one[0] if isinstance(one, tuple) else one for one in looked
        ]
        return Inputs(titles, descriptions, features), looked

    def encode(self, pictures: Sequence[Pixels]) -> list[Features]:
        """The features of images that are decoded already, on all threads. Only where there is an encoder."""
        if self.encoder is None:
            raise LookupError("no model of this bundle looks at images")
        return list(self._pool.map(self.encoder.encode, pictures))

    @cached_property
    def neighbours(self) -> Neighbours | None:
        """The products that were learnt from, if the bundle has them; read when they are first asked for."""
        return self.bundle.neighbours()

    def close(self) -> None:
        self._is_closed = True
        self._pool.shutdown()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try_out(self) -> None:
        """Say something of a product of each kind, with and without each of its parts: tables that do not fit each
        other show here, not when the first such product comes."""
        features = None
        if self.encoder is not None:
            features = self.encoder.encode(np.zeros((self.encoder.size, self.encoder.size, 3), np.uint8))
        kinds = itertools.product(("", "piscine"), ("", "ronde"), (None, features))
        self.classifier.probabilities(Inputs(*zip(*kinds, strict=True)))

    def _encode(self, product: Product) -> Looked:
        if product.image is None or self.encoder is None:
            return None
        started = time.perf_counter()
        try:
            pixels, traits = self.encoder.decode(product.image)
        except ImageError as error:
            return error
        finally:
            decoded = time.perf_counter()
            self._observe("decode", decoded - started)
        features = self.encoder.encode(pixels)
        if self._axes is not None:
            traits = replace(traits, components=self._axes.along(features))
        self._observe("image", time.perf_counter() - decoded)
        return features, traits

    def _outcome(self, probabilities: Array, present: NDArray[np.bool_], looked: Looked) -> Outcome:
        image_error = looked if isinstance(looked, ImageError) else None
        names = [name for name, here in zip(self.classifier.models.names(), present, strict=True) if here]
        if not names:
            return image_error or InputError(
                "there is nothing to classify", hint="Give a title, a description or an image."
            )
        best = np.argsort(-probabilities, kind="stable")[: self._top_k]
        candidates = tuple(Candidate(self._types[i], float(probabilities[i])) for i in best)
        [sure] = self.accepts(probabilities[np.newaxis])
        return Prediction(
            candidates=candidates,
            decision=Decision.ACCEPT if sure else Decision.REVIEW,
            inputs=tuple(names),
            model_version=self.version,
            image_error=image_error,
            image_traits=looked[1] if isinstance(looked, tuple) else None,
            types_id=self._types_id,
        )
