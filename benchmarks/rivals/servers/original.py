"""The original project's way: FastAPI, and a prediction for each request inside `async def`.

    python -m benchmarks.rivals.servers.original PORT [keras]

With `keras` the model is the original's, too: VGG16 and an LSTM, one Keras `predict` each, and the weighted sum of
both. It has random weights, which take as long. Its stop words, downloaded for every request, are left out.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Form, UploadFile

WORDS, LENGTH, UNITS, TYPES, SIDE = 10_000, 10, 128, 27, 224
TEXT_SHARE, IMAGE_SHARE = 0.82, 0.18

Say = Callable[[str, bytes], dict[str, Any]]


def networks() -> tuple[Any, Any]:
    """The text network and the image network of the original, Keras models of random weights."""
    import keras
    from keras import layers

    vgg16 = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
    hidden = layers.Dense(256, activation="relu")(layers.Flatten()(vgg16.output))
    image_model = keras.Model(vgg16.input, layers.Dense(TYPES, activation="softmax")(hidden))
    text_model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(WORDS, 128),
            layers.LSTM(UNITS),
            layers.Dense(TYPES, activation="softmax"),
        ]
    )
    return text_model, image_model


def shares_of(titles: Sequence[str], images: Sequence[Any], text_model: Any, image_model: Any) -> Any:
    """n x types: what one Keras `predict` of each network says, weighed. Images are paths or files."""
    import keras
    import numpy as np

    numbers = [[1 + hash(word) % (WORDS - 1) for word in title.lower().split()[:LENGTH]] for title in titles]
    words = keras.utils.pad_sequences(numbers, maxlen=LENGTH, padding="post")
    pictures = [keras.utils.img_to_array(keras.utils.load_img(one, target_size=(SIDE, SIDE))) for one in images]
    pixels = keras.applications.vgg16.preprocess_input(np.stack(pictures))
    by_text, by_image = text_model.predict(words, verbose=0), image_model.predict(pixels, verbose=0)
    return TEXT_SHARE * by_text + IMAGE_SHARE * by_image


def by_keras() -> Say:
    text_model, image_model = networks()

    def say(title: str, image: bytes) -> dict[str, Any]:
        [shares] = shares_of([title], [io.BytesIO(image)], text_model, image_model)
        best = int(shares.argmax())
        return {"predicted": str(best), "confidence": float(shares[best])}

    return say


def by_bundle() -> Say:
    from aisle.catalog import Product
    from benchmarks.rivals.servers.model import Model

    model = Model()

    def say(title: str, image: bytes) -> dict[str, Any]:
        return model.say([Product(title, "", image)])[0]

    return say


def main(port: str, engine: str = "") -> None:
    app, say = FastAPI(), (by_keras if engine == "keras" else by_bundle)()

    @app.post("/predict")
    async def predict(designation: Annotated[str, Form()], image: UploadFile) -> dict[str, Any]:
        return say(designation, await image.read())

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
