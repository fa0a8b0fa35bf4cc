"""What an image is like is recorded with its prediction, and the image is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.service.conftest import Service

from aisle.catalog import ImageTraits, Prediction, Product
from aisle.model.predictor import Predictor
from aisle.store import predictions
from aisle.store.engine import reading
from aisle.store.predictions import PredictionRecord


def recorded(service: Service, response: Any) -> PredictionRecord:
    assert response.status_code == 200, response.text
    service.client.app.state.parts.recorder.flush()  # type: ignore[attr-defined]
    with reading(service.engine) as connection:
        found = predictions.find(connection, response.json()["prediction_id"])
    assert found is not None
    return found


def test_the_traits_of_an_image_are_recorded_with_its_prediction(
    service: Service, predictor: Predictor, photo: bytes
) -> None:
    response = service.post(
        "/predict", data={"designation": "Livre"}, files={"image": ("a.jpg", photo, "image/jpeg")}
    )
    [expected] = predictor.predict([Product("Livre", "", photo)])
    assert isinstance(expected, Prediction)
    assert expected.image_traits is not None
    facts = recorded(service, response).image_facts
    assert facts is not None
    traits = ImageTraits(**facts | {"components": tuple(facts["components"])})
    assert traits.components == pytest.approx(expected.image_traits.components, rel=1e-3)
    assert (traits.width, traits.height) == (expected.image_traits.width, expected.image_traits.height)
    assert np.isfinite(traits.components).all()
    assert len(traits.components) == 16


def test_without_an_image_there_are_no_traits(service: Service) -> None:
    assert recorded(service, service.post("/predict", json={"designation": "Livre"})).image_facts is None
