"""Who vouches for a bundle: a signature over the sum of each of its files, by a key that the shop keeps.

`signature.json` stands beside the manifest. It is a DSSE envelope (github.com/secure-systems-lab/dsse) around an
in-toto statement that names every file with its SHA-256: both are written down, and other tools read them. Keys are
Ed25519 or ECDSA on P-256, in PEM: a file, or the text itself. Only whoever sets a key imports what computes with it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisle.errors import BundleError, ServiceMissing, UsageError
from aisle.files import sha256_bytes, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

SIGNATURE_FILE = "signature.json"
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:aisle:bundle:v1"
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)
HINT = "`aisle registry sign VERSION --key FILE` signs it."


def sign(folder: Path, version: str, sums: Mapping[str, str], key: str) -> str:
    """Write the signature of a bundle with these sums; the id of the key. Raises UsageError for a key of no use."""
    private = _private_key(key)
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sum_}} for name, sum_ in sorted(sums.items())],
        "predicateType": PREDICATE,
        "predicate": {"version": version},
    }
    payload = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    number = key_id(private.public_key())
    signature = {"keyid": number, "sig": _base64(_signed(private, _encoded(payload)))}
    envelope = {"payloadType": PAYLOAD, "payload": _base64(payload), "signatures": [signature]}
    write_json(folder / SIGNATURE_FILE, envelope)
    return number


def check(folder: Path, version: str, sums: Mapping[str, str], keys: str) -> None:
    """Raises BundleError unless one of the public `keys` signed exactly these files as this version."""
    believed = list(public_keys(keys))
    try:
        envelope = json.loads((folder / SIGNATURE_FILE).read_bytes())
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
        is_ours = envelope["payloadType"] == PAYLOAD
    except FileNotFoundError:
        raise BundleError("is not signed, and BUNDLE_PUBLIC_KEY asks for it", where=folder, hint=HINT) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(f"{SIGNATURE_FILE} is damaged", where=folder, hint=HINT) from None
    if not is_ours or not any(_verified(key, one, _encoded(payload)) for key in believed for one in signatures):
        raise BundleError("is signed by none of the keys of BUNDLE_PUBLIC_KEY", where=folder, hint=HINT)
    try:  # from here on it is what the key's owner wrote, if of a bundle
        statement = json.loads(payload)
        signed = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        of = (statement["predicateType"], statement["predicate"]["version"], signed)
    except (ValueError, KeyError, TypeError):
        of = ("", "", {})
    if of != (PREDICATE, version, dict(sums)):
        raise BundleError("is not what was signed", where=folder, hint="Restore it or sign it again.")


def public_keys(keys: str) -> Iterator[PublicKey]:
    """One or more, so that a new key can be believed before the old one goes. Raises UsageError."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    content, where = _read(keys, "BUNDLE_PUBLIC_KEY")
    found = [one[0] for one in _PEM.finditer(content)]
    if not found:
        raise UsageError("has no public key in PEM", where=where)
    for pem in found:
        try:
            key = load_pem_public_key(pem)
        except (ValueError, _unsupported()) as error:
            raise UsageError(f"is no public key in PEM: {error}", where=where) from None
        yield _of_our_kind(key, where)


def key_id(key: PublicKey) -> str:
    """The same for the same key, wherever it is: the beginning of its SHA-256."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    return sha256_bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))[:16]


def _private_key(given: str) -> PrivateKey:
    content, where = _read(given, "BUNDLE_SIGNING_KEY")
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        key: PrivateKey = _of_our_kind(load_pem_private_key(content, password=None), where)
    except ModuleNotFoundError:
        raise ServiceMissing("signing needs the package cryptography, which is not installed") from None
    except TypeError:
        raise UsageError("is encrypted: aisle takes a key without a passphrase", where=where) from None
    except (ValueError, _unsupported()):
        raise UsageError("is no private key in PEM", where=where) from None
    return key


def _of_our_kind(key: Any, where: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415

    is_curve = isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey)
    is_ours = isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey)
    if not is_ours and not (is_curve and key.curve.name == "secp256r1"):
        raise UsageError("is a key of another kind than Ed25519 or ECDSA on P-256", where=where)
    return key


def _signed(key: PrivateKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(SHA256()))


def _verified(key: PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415

    return UnsupportedAlgorithm


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding, so that a payload cannot pass for one of another type."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _read(given: str, setting: str) -> tuple[bytes, str]:
    """The PEM, and what to call it: it is in a file, or is the setting's own value, as a mounted secret gives it."""
    if "-----BEGIN" in given:
        return given.encode(), setting
    try:
        return Path(given).read_bytes(), given
    except OSError as error:
        raise UsageError(f"the key cannot be read: {error.strerror}", where=given) from None
