"""MLServer: a runtime of its own, asked by the Open Inference Protocol: `mlserver start FOLDER`."""

from __future__ import annotations

import base64
import json
from typing import Any

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from aisle.catalog import Product
from benchmarks.rivals.servers.model import Model


class Rival(MLModel):
    async def load(self) -> bool:
        self._model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        titles, images = (_texts(one.data) for one in payload.inputs)
        products = [Product(title, "", base64.b64decode(image)) for title, image in zip(titles, images, strict=True)]
        said = [json.dumps(one) for one in self._model.say(products)]
        output = ResponseOutput(name="predictions", shape=[len(said)], datatype="BYTES", data=said)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])


def _texts(data: Any) -> list[str]:
    return list(getattr(data, "root", data))
