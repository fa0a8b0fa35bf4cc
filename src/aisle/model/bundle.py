"""The bundle: one trained model in one folder, and the only thing that prediction takes.

    manifest.json       the format, the version, and the SHA-256 of every file under the sums
    model.json          recipe, types in order, models, preprocessing, temperatures, fusion, decision thresholds
    product_types.csv   the label table; product_type_changes.csv what became of earlier types, if any changed
    <text model>.json   its vocabulary; <text model>.safetensors its weights, or <text model>.onnx its graph
    image.onnx          the image encoder; image.safetensors its head
    fusion.safetensors  the fusion's numbers, if it has more than a few
    known_answer.json   what it says of a few fixed products: whoever serves it checks that first
    reference.json, .safetensors   how products looked that it was measured on (a bundle of an older aisle has none)
    neighbours.json, .safetensors  the products that were learnt from, to find those most like another (the same)
    metrics.json        what was measured · lineage.json   data hash, code revision, configuration, seed
    MODEL_CARD.md       for people; DATA_SHEET.md what the catalogue is like (an older bundle has none)
    run.json            what differs from run to run (times): beside the sums, not under them
    signature.json      who vouches for the sums, if a key signed it (signing.py): beside them, too

The version is a hash of the sums: equal bytes, equal version. Nothing in a bundle is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from aisle.catalog import CHANGES_FILE, TYPES_FILE, ProductType, ProductTypes, TypeChanges
from aisle.errors import AisleError, BundleError
from aisle.files import atomic_folder, sha256_bytes, sha256_json, to_json, write_json
from aisle.model.blend import AnyTextModel, BlendedModel, SingleTextModel
from aisle.model.classifier import IMAGE, Classifier, Models
from aisle.model.fusion import fusion_from
from aisle.model.image import DenseHead
from aisle.model.neighbours import NEIGHBOURS_ARRAYS, NEIGHBOURS_TABLE, Neighbours
from aisle.model.pieces import PieceTokenizer
from aisle.model.reference import REFERENCE_ARRAYS, REFERENCE_TABLE, Axes, Reference
from aisle.model.sequence import SequenceModel, WordTokenizer
from aisle.model.signing import check as check_signature
from aisle.model.signing import sign
from aisle.model.text import TextModel, TextVectorizer
from aisle.model.transformer import TransformerModel
from aisle.settings import get_settings

FORMAT = 2
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.json"
METRICS_FILE = "metrics.json"
LINEAGE_FILE = "lineage.json"
CARD_FILE = "MODEL_CARD.md"
SHEET_FILE = "DATA_SHEET.md"
RUN_FILE = "run.json"
ENCODER_FILE = "image.onnx"
HEAD_FILE = f"{IMAGE}.safetensors"
FUSION_FILE = "fusion.safetensors"
KNOWN_ANSWER_FILE = "known_answer.json"
TABLES = (MODEL_FILE, KNOWN_ANSWER_FILE, METRICS_FILE, LINEAGE_FILE)
TEXTS = (TYPES_FILE, CARD_FILE)
"""What every bundle has, whatever its recipe."""
EXECUTABLE_SUFFIXES = frozenset({".h5", ".hdf5", ".keras", ".pkl", ".pickle", ".joblib", ".pt", ".pth"})
ORIGINAL_FILES = frozenset({"tokenizer_config.json", "mapper.json", "best_weights.json"})
"""How the original project named what its model needed beside the weights."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory: every file was read once and agreed with its sum."""

    path: Path
    version: str
    contents: Mapping[str, bytes]

    @classmethod
    def load(cls, path: Path, *, signed: bool = True) -> Bundle:
        """Read and verify a bundle. Raises BundleError: not there, incomplete, altered, or of another format.

        Where BUNDLE_PUBLIC_KEY is set, it has to be signed, too; for whoever is about to sign it, `signed` is False.
        """
        try:
            manifest = json.loads((path / MANIFEST_FILE).read_bytes())
            sums, version, kind = dict(manifest["files"]), str(manifest["version"]), manifest["format"]
        except (FileNotFoundError, NotADirectoryError):
            raise _not_a_bundle(path) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BundleError(f"{MANIFEST_FILE} is damaged", where=path) from None
        if kind != FORMAT:
            raise BundleError(f"is of format {kind}, this aisle reads format {FORMAT}", where=path)
        if signed:
            _check_signature(path, version, sums)
        with refused_if_malformed(path):
            contents = {name: _read_verified(path, name, sum_) for name, sum_ in sums.items()}
        if version != _version(sums):
            raise BundleError(f"{MANIFEST_FILE} was altered: the version does not fit the sums", where=path)
        bundle = cls(path, version, contents)
        for name in TABLES:
            bundle.json(name)
        for name in TEXTS:
            bundle.text(name)
        return bundle

    def json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._content(name))
        except (ValueError, RecursionError):  # nested thousands deep
            raise BundleError(f"{name} is damaged: it is no JSON", where=self.path) from None
        if not isinstance(found, dict):
            raise BundleError(f"{name} is damaged: it is no JSON object", where=self.path)
        return found

    def text(self, name: str) -> str:
        try:
            return self._content(name).decode()
        except UnicodeDecodeError:
            raise BundleError(f"{name} is damaged: it is not UTF-8", where=self.path) from None

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        try:
            arrays: dict[str, NDArray[Any]] = load(self._content(name))
        except SafetensorError as error:
            raise BundleError(f"{name} is damaged: {error}", where=self.path) from None
        return arrays

    def types(self) -> ProductTypes:
        return ProductTypes.from_text(self.text(TYPES_FILE), where=self.path / TYPES_FILE)

    def changes(self) -> TypeChanges:
        """What became of the types of earlier tables; nothing, for a bundle that does not say."""
        if CHANGES_FILE not in self.contents:
            return TypeChanges()
        return TypeChanges.from_text(self.text(CHANGES_FILE), where=self.path / CHANGES_FILE)

    def encoder_graph(self) -> bytes | None:
        return self.contents.get(ENCODER_FILE)

    def reference(self) -> Reference | None:
        """None for a bundle that was trained before there were references. Raises BundleError for a damaged one."""
        if REFERENCE_TABLE not in self.contents:
            return None
        with refused_if_malformed(self.path):
            return Reference.from_tables(self.json(REFERENCE_TABLE), self.arrays(REFERENCE_ARRAYS))

    def neighbours(self) -> Neighbours | None:
        """None for a bundle that was trained before they were kept. Raises BundleError for damaged ones."""
        if NEIGHBOURS_TABLE not in self.contents:
            return None
        with refused_if_malformed(self.path):
            return Neighbours.from_tables(self.json(NEIGHBOURS_TABLE), self.arrays(NEIGHBOURS_ARRAYS))

    def axes(self) -> Axes | None:
        """Of the reference, which has none for a model without images."""
        reference = self.reference()
        return None if reference is None else reference.axes

    def classifier(self) -> Classifier:
        """Raises BundleError when the tables do not fit each other."""
        with refused_if_malformed(self.path):
            model = self.json(MODEL_FILE)
            texts = {name: self._text_model(name, model.get("blends", {})) for name in model["text_fields"]}
            return Classifier(
                codes=tuple(model["codes"]),
                models=Models(texts, self._head(HEAD_FILE) if ENCODER_FILE in self.contents else None),
                temperatures=model["temperatures"],
                fusion=fusion_from(model["fusion"], self._fusion_arrays()),
            )

    def _fusion_arrays(self) -> dict[str, NDArray[Any]]:
        return self.arrays(FUSION_FILE) if FUSION_FILE in self.contents else {}

    def _head(self, name: str) -> DenseHead:
        return DenseHead.from_arrays(self.arrays(name))

    def _text_model(self, field: str, blends: Mapping[str, Any]) -> AnyTextModel:
        if (blend := blends.get(field)) is None:
            return self._single(field)
        parts = {name: self._single(name) for name in blend["weights"]}
        return BlendedModel(parts, blend["temperatures"], blend["weights"])

    def _single(self, field: str) -> SingleTextModel:
        if (graph := self.contents.get(f"{field}.onnx")) is not None:
            table = self.json(f"{field}.json")
            if "pieces" in table:
                return TransformerModel(PieceTokenizer.from_table(table), graph)
            return SequenceModel(WordTokenizer.from_table(table), graph)
        arrays = self.arrays(f"{field}.safetensors")
        vectorizer = TextVectorizer.from_tables(self.json(f"{field}.json"), arrays)
        return TextModel(vectorizer, arrays["weights"], arrays["bias"])

    def _content(self, name: str) -> bytes:
        try:
            return self.contents[name]
        except KeyError:
            raise BundleError(f"{name} is missing", where=self.path) from None


@contextlib.contextmanager
def refused_if_malformed(path: Path) -> Iterator[None]:
    """Whatever cannot be done with a bundle's content here is the bundle's fault: raises BundleError."""
    try:
        yield
    except AisleError:
        raise
    except Exception as error:
        raise BundleError(f"its tables do not fit each other: {error!r}", where=path) from error


@dataclass(frozen=True, slots=True)
class BundleParts:
    """What a bundle is written from."""

    classifier: Classifier
    encoder_graph: bytes | None
    types: ProductTypes
    changes: TypeChanges
    decision: Mapping[str, Any]
    recipe: str
    known_answer: Mapping[str, Any]
    reference: Reference | None
    neighbours: Neighbours | None
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    card: str
    sheet: str
    run: Mapping[str, Any]


def write_bundle(path: Path, parts: BundleParts) -> Bundle:
    """Write the bundle to the folder `path`, whole or not at all, and load it again.

    It is signed where BUNDLE_SIGNING_KEY is set.
    """
    files = _under_the_sums(parts)
    sums = {name: sha256_bytes(content) for name, content in files.items()}
    with atomic_folder(path) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_json(folder / RUN_FILE, parts.run)
        write_json(folder / MANIFEST_FILE, {"format": FORMAT, "version": _version(sums), "files": sums})
        if key := get_settings().bundle_signing_key.get_secret_value():
            sign(folder, _version(sums), sums, key)
    return Bundle.load(path, signed=False)


def _under_the_sums(parts: BundleParts) -> dict[str, bytes]:
    classifier = parts.classifier
    blends = {name: one for name, one in classifier.models.texts.items() if isinstance(one, BlendedModel)}
    model: dict[str, Any] = {
        "recipe": parts.recipe,
        "codes": classifier.codes,
        "text_fields": list(classifier.models.texts),
        "temperatures": dict(classifier.temperatures),
        "fusion": classifier.fusion.table(),
        "decision": dict(parts.decision),
    }
    if blends:
        model["blends"] = {
            name: {"temperatures": one.temperatures, "weights": one.weights} for name, one in blends.items()
        }
    files = {
        MODEL_FILE: to_json(model).encode(),
        TYPES_FILE: parts.types.to_csv().encode(),
        KNOWN_ANSWER_FILE: json.dumps(parts.known_answer, sort_keys=True).encode(),
        METRICS_FILE: to_json(parts.metrics).encode(),
        LINEAGE_FILE: to_json(parts.lineage).encode(),
        CARD_FILE: parts.card.encode(),
        SHEET_FILE: parts.sheet.encode(),
    }
    if parts.changes:
        files[CHANGES_FILE] = parts.changes.to_csv().encode()
    singles = {name: one for name, one in classifier.models.texts.items() if not isinstance(one, BlendedModel)}
    for one in blends.values():
        singles |= one.parts
    for name, text in singles.items():
        if isinstance(text, SequenceModel):
            table = text.tokenizer.to_table()
            files[f"{name}.onnx"] = text.graph
        else:
            table, arrays = text.vectorizer.to_tables()
            files[f"{name}.safetensors"] = save({**arrays, "weights": text.weights, "bias": text.bias})
        files[f"{name}.json"] = json.dumps(table, ensure_ascii=False, sort_keys=True).encode()
    if classifier.models.image is not None and parts.encoder_graph is not None:
        files[ENCODER_FILE] = parts.encoder_graph
        files[HEAD_FILE] = save(classifier.models.image.arrays())
    if numbers := classifier.fusion.arrays():
        files[FUSION_FILE] = save(dict(numbers))
    if parts.reference is not None:
        files[REFERENCE_TABLE] = json.dumps(parts.reference.table(), ensure_ascii=False, sort_keys=True).encode()
        files[REFERENCE_ARRAYS] = save(parts.reference.arrays())
    if parts.neighbours is not None:
        files[NEIGHBOURS_TABLE] = json.dumps(parts.neighbours.table(), ensure_ascii=False, sort_keys=True).encode()
        files[NEIGHBOURS_ARRAYS] = save(parts.neighbours.arrays())
    return dict(sorted(files.items()))


def only_types(path: Path) -> Bundle:
    """The bundle in a folder with its table of types and its changes alone: quickly read, and of no other use.

    Raises BundleError.
    """
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_bytes())
        sums, version = dict(manifest["files"]), str(manifest["version"])
        wanted = {name: sums[name] for name in (TYPES_FILE, *({CHANGES_FILE} & sums.keys()))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _not_a_bundle(path) from None
    _check_signature(path, version, sums)
    return Bundle(path, path.name, {name: _read_verified(path, name, sum_) for name, sum_ in wanted.items()})


def _check_signature(path: Path, version: str, sums: Mapping[str, str]) -> None:
    if keys := get_settings().bundle_public_key:
        check_signature(path, version, sums, keys)


def _not_a_bundle(path: Path) -> BundleError:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if file.suffix.lower() in EXECUTABLE_SUFFIXES or file.name in ORIGINAL_FILES:
            return BundleError(
                "is a Keras, pickle or tokenizer file, as the original project saved its model: such a file can run "
                "code when it is loaded, and its texts and images were prepared in other ways",
                where=file,
                hint="`aisle train --recipe lstm-vgg16` trains that model anew, from your catalogue.",
            )
    return BundleError("is not a bundle", where=path, hint="`aisle train` makes one.")


def _read_verified(path: Path, name: str, sha256: str) -> bytes:
    if Path(name).name != name:
        raise BundleError(f"{MANIFEST_FILE} names a file outside the bundle: {name}", where=path)
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{name} cannot be read: {error.strerror}", where=path) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BundleError(f"{name} was altered: its sum differs", where=path, hint="Restore it or train again.")
    return content


def _version(sums: Mapping[str, str]) -> str:
    return sha256_json(dict(sums))[:12]


def label_of(types: ProductTypes, code: str) -> ProductType:
    return types.get(code) or ProductType(code, code)
