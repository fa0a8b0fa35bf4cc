"""Tell another program by HTTP what a promotion would change: `CHANGES_WEBHOOK_URL`.

    POST /what/the/shop/chose
    Content-Type: application/json
    X-Aisle-Event: catalogue.changes
    X-Aisle-Delivery: 5f2a…                 the same each time this is told: who has it already need not do it twice
    X-Aisle-Timestamp: 1764000000           seconds since 1970
    X-Aisle-Signature: sha256=9c1e…         HMAC-SHA256 of "TIMESTAMP.BODY" with CHANGES_WEBHOOK_SECRET

Any 2xx is enough. What time may change (no connection, no answer, 408, 425, 429, 5xx) is tried again, with growing
pauses; any other answer is final. A redirect is not followed: what is signed for one address is for no other.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import httpx

from aisle.batch.comparison import ChangesReport
from aisle.clock import Clock, utc_now
from aisle.data.download import Patience
from aisle.errors import ServiceMissing
from aisle.files import sha256_bytes, to_json
from aisle.logs import get_logger
from aisle.settings import Settings

EVENT = "catalogue.changes"
PATIENCE = Patience(attempts=5, longest_wait=30, connect_timeout=5, read_timeout=10)
AGAIN = frozenset({408, 425, 429})
_log = get_logger(__name__)


def notify(
    report: ChangesReport, settings: Settings, *, patience: Patience = PATIENCE, clock: Clock = utc_now
) -> bool:
    """Tell of a report; whether there was anybody to tell. Raises ServiceMissing where it was not taken."""
    url = settings.changes_webhook_url
    if not url:
        return False
    body = to_json({"event": EVENT, **report.as_dict(), "csv": str(Path(report.csv).resolve())}).encode()
    secret = settings.changes_webhook_secret.get_secret_value()
    where = shown_host(url)
    timeout = httpx.Timeout(patience.read_timeout, connect=patience.connect_timeout)
    with httpx.Client(timeout=timeout, follow_redirects=False) as client:
        for attempt in range(1, patience.attempts + 1):
            refusal, asked = _post(client, url, body, signed(body, secret, clock), where)
            if refusal is None:
                _log.info("the changes were told", to=where, attempts=attempt)
                return True
            if attempt < patience.attempts:
                _log.warning("the changes were not taken, trying again", to=where, reason=refusal)
                patience.sleep(patience.pause(attempt, asked))
    raise _not_taken(f"{refusal}, {patience.attempts} times", where)


def signed(body: bytes, secret: str, clock: Clock) -> dict[str, str]:
    """The headers of one delivery."""
    timestamp = str(int(clock().timestamp()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "aisle",
        "X-Aisle-Event": EVENT,
        "X-Aisle-Delivery": sha256_bytes(body),
        "X-Aisle-Timestamp": timestamp,
    }
    if secret:
        digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
        headers["X-Aisle-Signature"] = f"sha256={digest}"
    return headers


def shown_host(url: str) -> str:
    """The address without what may be secret, which for a webhook is everything behind the host."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode()}"


def _post(
    client: httpx.Client, url: str, body: bytes, headers: dict[str, str], where: str
) -> tuple[str | None, float]:
    """Why it was not taken, None if it was, and for how many seconds the server asks to wait. Raises ServiceMissing
    for an answer that is final. The answer's body is not read."""
    try:
        with client.stream("POST", url, content=body, headers=headers) as answer:
            status, after = answer.status_code, answer.headers.get("retry-after", "")
    except httpx.TimeoutException:
        return "no answer in time", 0.0
    except (httpx.TransportError, OSError) as error:
        return f"no connection ({type(error).__name__})", 0.0
    except (httpx.InvalidURL, httpx.HTTPError) as error:
        raise _not_taken(f"it cannot be asked ({type(error).__name__})", where) from None
    if 200 <= status < 300:
        return None, 0.0
    if status in AGAIN or status >= 500:
        return f"the answer is {status}", float(after) if after.isdecimal() and len(after) < 10 else 0.0
    if 300 <= status < 400:
        raise _not_taken(f"the answer is {status}, a redirect, which is not followed", where)
    raise _not_taken(f"the answer is {status}", where)


def _not_taken(reason: str, where: str) -> ServiceMissing:
    return ServiceMissing(
        f"the changes were listed, and the webhook did not take them: {reason}",
        where=where,
        hint="The CSV is there; CHANGES_WEBHOOK_URL says whom to tell, and the same command tells again.",
    )
