"""Signed bundles: with a public key set, nothing loads that none of its keys vouches for."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption as Encrypted
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.service.conftest import replace_file

from aisle.errors import BundleError, UsageError
from aisle.files import read_json, write_json
from aisle.model.bundle import CARD_FILE, MANIFEST_FILE, SHEET_FILE, Bundle, BundleParts, only_types, write_bundle
from aisle.model.signing import SIGNATURE_FILE, key_id, sign
from aisle.registry.bundles import BundleStore
from aisle.settings import get_settings
from aisle.store import audit
from aisle.store.engine import open_database, reading

Key = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
MAKE: dict[str, Callable[[], Key]] = {
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
}


def write_key(key: Key | rsa.RSAPrivateKey, folder: Path, name: str = "key") -> Path:
    """Both halves: NAME.pem and NAME.pub."""
    (folder / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return folder / f"{name}.pem"


def signed_by(folder: Path, key: Path) -> None:
    manifest = read_json(folder / MANIFEST_FILE)
    sign(folder, manifest["version"], manifest["files"], str(key))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(MAKE["Ed25519"](), tmp_path)


@pytest.fixture
def folder(bundle: Bundle, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that nobody signed, in a shop that asks for the key."""
    monkeypatch.setenv("BUNDLE_PUBLIC_KEY", str(key.with_suffix(".pub")))
    get_settings.cache_clear()
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


@pytest.mark.parametrize("kind", MAKE)
def test_a_bundle_that_the_key_signed_loads(folder: Path, key: Path, kind: str, bundle: Bundle) -> None:
    signed_by(folder, write_key(MAKE[kind](), key.parent))
    assert Bundle.load(folder).version == bundle.version
    assert only_types(folder).types().keys() == bundle.types().keys()


def test_a_bundle_that_nobody_signed_does_not_load(folder: Path) -> None:
    for load in (Bundle.load, only_types):
        with pytest.raises(BundleError, match="is not signed"):
            load(folder)


def test_a_bundle_that_another_key_signed_does_not_load(folder: Path, key: Path) -> None:
    signed_by(folder, write_key(MAKE["Ed25519"](), key.parent, "another"))
    with pytest.raises(BundleError, match="none of the keys"):
        Bundle.load(folder)


def test_a_mounted_secret_gives_the_key_itself(
    folder: Path, key: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_by(folder, key)
    monkeypatch.setenv("BUNDLE_PUBLIC_KEY", key.with_suffix(".pub").read_text())
    get_settings.cache_clear()
    assert Bundle.load(folder).version == bundle.version


def test_of_several_keys_one_is_enough(folder: Path, key: Path) -> None:
    new = write_key(MAKE["P-256"](), key.parent, "new")
    signed_by(folder, new)
    both = key.with_suffix(".pub").read_bytes() + new.with_suffix(".pub").read_bytes()
    key.with_suffix(".pub").write_bytes(both)
    Bundle.load(folder)


def test_a_bundle_that_was_altered_with_sums_that_fit_does_not_load(folder: Path, key: Path) -> None:
    signed_by(folder, key)
    replace_file(folder, CARD_FILE, b"# another\n")
    with pytest.raises(BundleError, match="is not what was signed"):
        Bundle.load(folder)


def test_the_signature_of_another_bundle_does_not_do(folder: Path, key: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    replace_file(other, CARD_FILE, b"# another\n")
    signed_by(other, key)
    shutil.copy(other / SIGNATURE_FILE, folder / SIGNATURE_FILE)
    with pytest.raises(BundleError, match="is not what was signed"):
        Bundle.load(folder)


def test_an_altered_payload_is_not_believed(folder: Path, key: Path) -> None:
    signed_by(folder, key)
    replace_file(folder, CARD_FILE, b"# another\n")
    manifest, envelope = read_json(folder / MANIFEST_FILE), read_json(folder / SIGNATURE_FILE)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    subject = [{"name": name, "digest": {"sha256": sum_}} for name, sum_ in manifest["files"].items()]
    statement |= {"subject": subject, "predicate": {"version": manifest["version"]}}
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    write_json(folder / SIGNATURE_FILE, envelope | {"payload": payload})
    with pytest.raises(BundleError, match="none of the keys"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"payload": "!", "payloadType": "x", "signatures": []}', b"[]"])
def test_a_damaged_signature_is_said_to_be(folder: Path, content: bytes) -> None:
    (folder / SIGNATURE_FILE).write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.load(folder)


def test_a_key_of_no_use_is_refused_before_anything_is_loaded(folder: Path, key: Path, tmp_path: Path) -> None:
    rsa_key = write_key(rsa.generate_private_key(65537, 2048), tmp_path, "rsa")
    locked = tmp_path / "locked.pem"
    private = MAKE["Ed25519"]()
    locked.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, Encrypted(b"x")))
    (tmp_path / "text.pem").write_text("no key")
    for file, why in ((rsa_key, "another kind"), (locked, "encrypted"), (tmp_path / "text.pem", "no private key"),
                      (tmp_path / "none.pem", "cannot be read")):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            signed_by(folder, file)
    key.with_suffix(".pub").write_text("no key")
    with pytest.raises(UsageError, match="no public key"):
        Bundle.load(folder)


def test_a_bundle_of_the_store_is_signed_by_a_verb_and_that_is_in_the_trail(
    folder: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from aisle.cli.registry import registry

    store = BundleStore(get_settings().models_path)
    stored = store.add(Bundle.load(folder, signed=False))
    registry.main(["sign", stored.name, "--key", str(key), "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    store.make_champion(stored.name)
    engine = open_database(get_settings().database_url)
    with reading(engine) as connection:
        [entry] = audit.entries(connection)
    engine.dispose()
    assert (entry.what, entry.subject, entry.after) == ("model.sign", stored.name, {"key": told["key"]})


def test_what_is_trained_where_the_private_key_is_is_signed(
    folder: Path, key: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNDLE_SIGNING_KEY", str(key))
    get_settings.cache_clear()
    parts = BundleParts(
        classifier=bundle.classifier(),
        encoder_graph=bundle.encoder_graph(),
        types=bundle.types(),
        changes=bundle.changes(),
        decision=bundle.json("model.json")["decision"],
        recipe="light",
        known_answer=bundle.json("known_answer.json"),
        reference=bundle.reference(),
        neighbours=bundle.neighbours(),
        metrics=bundle.json("metrics.json"),
        lineage=bundle.json("lineage.json"),
        card=bundle.text(CARD_FILE),
        sheet="# Data sheet\n",
        run={},
    )
    write_bundle(tmp_path / "signed", parts)
    assert Bundle.load(tmp_path / "signed").text(SHEET_FILE) == "# Data sheet\n"


def test_a_signature_comes_along_into_the_store(folder: Path, key: Path, tmp_path: Path) -> None:
    signed_by(folder, key)
    stored = BundleStore(tmp_path / "models").add(Bundle.load(folder))
    Bundle.load(stored)


def test_a_key_has_the_same_id_on_both_sides(tmp_path: Path) -> None:
    private = MAKE["P-256"]()
    assert key_id(private.public_key()) == key_id(private.public_key())
    assert key_id(private.public_key()) != key_id(MAKE["P-256"]().public_key())


def test_without_a_key_nothing_of_it_is_imported(bundle: Bundle) -> None:
    script = (
        "import sys; from pathlib import Path; from aisle.model.bundle import Bundle;"
        f"Bundle.load(Path({str(bundle.path)!r})); print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
