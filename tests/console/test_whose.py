"""Whose an object is: every address of both services that names one, asked for by whom it is not."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from tests.auth.conftest import PASSWORD
from tests.console.conftest import Site
from tests.console.test_pages import FORMS, desk_of
from tests.web.routes import routes_of

from aisle.auth.app import create_app as create_token_service
from aisle.console.pages import create_console

OWN = {
    ("GET", "/batches/{batch_id}"),
    ("GET", "/batches/{batch_id}/results"),
    ("POST", "/batches/{batch_id}/cancel"),
    ("DELETE", "/batches/{batch_id}"),
    ("GET", "/console/bulk/{batch_id}"),
    ("GET", "/console/bulk/{batch_id}/watch"),
    ("GET", "/console/bulk/{batch_id}/results.{kind}"),
    ("GET", "/console/bulk/{batch_id}/shown.csv"),
    ("GET", "/console/bulk/{batch_id}/images/{row}.jpg"),
}
"""A batch is its owner's alone, whatever role somebody has."""
FOR_REVIEWERS = {
    ("GET", "/console/review/text/{prediction_id}"),
    ("GET", "/console/review/image/{prediction_id}"),
    ("GET", "/console/health/{name}.csv"),
    ("GET", "/console/health/{name}"),
}
"""What people review is every reviewer's, and no client's."""
FOR_ALL = {("GET", "/console/static/{name}")}
OWN_FORMS = {"/bulk/cancel": "id", "/bulk/delete": "id", "/classify/correct": "prediction_id"}
"""Forms of the console that name something of somebody's, and in which field."""
FORMS_OF_REVIEWERS = {"/review/say": "id", "/review/undo": "id"}


@pytest.fixture(scope="module")
def batch(site: Site) -> str:
    """A batch of Anne's."""
    files = {"table": ("a.csv", b"designation\npiscine\n")}
    answer = httpx.post(f"{site.url}/batches", files=files, headers=bearer(site, "anne"))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def prediction(site: Site) -> str:
    """A prediction of Anne's."""
    answer = httpx.post(
        f"{site.url}/predict", json={"designation": "Livre"}, headers=bearer(site, "anne"), timeout=30
    )
    assert site.app.state.parts.recorder.flush()
    return str(answer.json()["prediction_id"])


def bearer(site: Site, name: str) -> dict[str, str]:
    answer = httpx.post(f"{site.url}/token", data={"username": name, "password": PASSWORD}, timeout=30)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def test_every_address_that_names_an_object_is_asked_here(site: Site) -> None:
    console = {(method, f"/console{path}") for method, path in routes_of(create_console(desk_of(site)))}
    tokens = routes_of(create_token_service(site.engine, site.settings))
    named = {one for one in routes_of(site.app) | console | tokens if "{" in one[1]}
    assert named == OWN | FOR_REVIEWERS | FOR_ALL


def test_every_form_that_names_an_object_is_sent_here() -> None:
    naming = {path for path, form in FORMS.items() if {"id", "prediction_id"} & form.keys()}
    assert naming == OWN_FORMS.keys() | FORMS_OF_REVIEWERS.keys()


@pytest.mark.parametrize("name", ["rita", "carl"])
@pytest.mark.parametrize(("method", "path"), sorted(OWN))
def test_what_is_another_s_is_as_if_it_were_not_there(
    site: Site, batch: str, name: str, method: str, path: str
) -> None:
    address = path.replace("{batch_id}", batch).replace("{kind}", "csv").replace("{row}", "1")
    ask: Callable[..., httpx.Response]
    if path.startswith("/console"):
        ask = site.browser(name).get
        answer, unknown = ask(address), ask(address.replace(batch, "0" * 32))
    else:
        headers = bearer(site, name)
        answer, unknown = (
            httpx.request(method, f"{site.url}{one}", headers=headers)
            for one in (address, address.replace(batch, "0" * 32))
        )
    assert (answer.status_code, unknown.status_code) == (404, 404)
    assert httpx.get(f"{site.url}/batches/{batch}", headers=bearer(site, "anne")).json()["state"] == "waiting"


@pytest.mark.parametrize(("method", "path"), sorted(FOR_REVIEWERS))
def test_what_reviewers_see_no_client_does(site: Site, prediction: str, method: str, path: str) -> None:
    address = path.replace("{prediction_id}", prediction).replace("{name}", "suspects")
    assert site.browser("carl").client.request(method, address).status_code == 403
    assert site.browser().client.request(method, address).status_code == 303  # to the sign-in


@pytest.mark.parametrize("path", OWN_FORMS)
def test_a_form_changes_nothing_that_is_another_s(site: Site, batch: str, prediction: str, path: str) -> None:
    named = prediction if OWN_FORMS[path] == "prediction_id" else batch
    answer = site.browser("carl").post(f"/console{path}", {**FORMS[path], OWN_FORMS[path]: named})
    assert answer.status_code in (403, 404)
    assert httpx.get(f"{site.url}/batches/{batch}", headers=bearer(site, "anne")).json()["state"] == "waiting"


@pytest.mark.parametrize("path", FORMS_OF_REVIEWERS)
def test_a_form_of_reviewers_is_none_of_a_client_s(site: Site, prediction: str, path: str) -> None:
    form = {**FORMS[path], FORMS_OF_REVIEWERS[path]: prediction}
    assert site.browser("carl").post(f"/console{path}", form).status_code == 403


def test_nobody_corrects_another_s_prediction_but_reviewers(site: Site, prediction: str) -> None:
    said = {"prediction_id": prediction, "type": "2583"}
    statuses = {
        name: httpx.post(f"{site.url}/feedback", json=said, headers=bearer(site, name)).status_code
        for name in ("carl", "rita")
    }
    assert statuses == {"carl": 403, "rita": 201}
