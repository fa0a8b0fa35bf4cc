"""Bad input: one clear line, the exit code of the contract, nothing half-written, nothing earlier touched."""

from __future__ import annotations

import io
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.end_to_end.conftest import (
    Files,
    Processes,
    Ran,
    contents,
    image_path,
    leftovers,
    picture,
    write_shop,
)

from aisle.catalog import CHANGES_FILE, TYPES_FILE
from aisle.cli import main
from aisle.data.raw import AGREEMENT_FILE, IMAGES_ZIP, LABELS_FILE, TRAIN_FILE, read_table
from aisle.errors import InputError
from aisle.registry.bundles import BundleStore

Run = Callable[..., Ran]
Spoil = Callable[[Path], object]


# --- What can be wrong with a shop's catalogue


def put(name: str, content: bytes) -> Spoil:
    return lambda shop: (shop / name).write_bytes(content)


def replaced(name: str, old: str, new: str, encoding: str = "utf-8") -> Spoil:
    """The file with `old` for `new`, in another encoding."""

    def spoil(shop: Path) -> None:
        text = (shop / name).read_text()
        assert old in text
        (shop / name).write_bytes(text.replace(old, new).encode(encoding))

    return spoil


def added(name: str, line: str) -> Spoil:
    return lambda shop: (shop / name).write_text(f"{(shop / name).read_text()}{line}\n")


def only_header(name: str) -> Spoil:
    return lambda shop: (shop / name).write_text((shop / name).read_text().splitlines(keepends=True)[0])


def zipped(**entries: bytes) -> Spoil:
    """All images of the shop in a zip, and a few entries more."""

    def spoil(shop: Path) -> None:
        with zipfile.ZipFile(shop / IMAGES_ZIP, "w", zipfile.ZIP_DEFLATED) as packed:
            for key in range(120):
                packed.writestr(f"images/image_train/{image_path(shop, key).name}", picture(key))
            for name, content in entries.items():
                packed.writestr(name, content)

    return spoil


def cut_zip(shop: Path) -> None:
    zipped()(shop)
    whole = (shop / IMAGES_ZIP).read_bytes()
    (shop / IMAGES_ZIP).write_bytes(whole[: len(whole) // 2])


def renamed_image_column(shop: Path) -> None:
    replaced(TRAIN_FILE, "imageid", "image")(shop)
    (shop / "a.jpg").write_bytes(picture(0))


def folder_for_a_table(shop: Path) -> None:
    (shop / TRAIN_FILE).unlink()
    (shop / TRAIN_FILE).mkdir()


def nothing(_: Path) -> None:
    pass


TYPES = b"prdtypecode,label\nL1,Livres\nP2,Piscines\n"
OUTSIDE = {"../../outside.jpg": b"image"}
BOMB = {"images/image_train/image_1_product_1.jpg": bytes(50 << 20)}


@dataclass(frozen=True)
class Bad:
    """`spoil` makes the catalogue in `shop/` bad; the command answers with `code` and a line that has all of `says`.

    What it says: where, what is wrong, and what to do. `refused`: the reasons are written beside the result.
    """

    spoil: Spoil
    says: Sequence[str]
    words: str = "validate --data shop --out out"
    code: int = 3
    refused: bool = False


MISSING = ("there is no such folder", "`aisle import --source sample` makes a catalogue")
NO_CATALOGUE = ("is not a catalogue", TRAIN_FILE, LABELS_FILE, "`aisle import --help`")
NOT_UTF8 = ("is not UTF-8: byte 0xE9 in line", "Convert it first", "iconv -f ISO-8859-1 -t UTF-8")
NO_ZIP = (f"shop/{IMAGES_ZIP}", "it is not a zip, or it is cut short", "Nothing of it was taken over")
TRAIN = "train --data shop --out out"
IMPORT = "import --source shop --to raw"
PREDICT = f"predict shop/{TRAIN_FILE} --output out.csv"

CASES = {
    "missing folder": Bad(nothing, ("nowhere: ", *MISSING), "validate --data nowhere --out out"),
    "missing folder to train on": Bad(nothing, ("nowhere: ", *MISSING), "train --data nowhere --out out"),
    "missing folder to import": Bad(nothing, ("nowhere: ", *MISSING), "import --source nowhere --to raw"),
    "missing folder to prepare": Bad(
        nothing, ("nowhere: is not a validated folder", "Run `aisle validate`"), "prepare --data nowhere --out out"
    ),
    "empty folder": Bad(nothing, ("empty: ", *NO_CATALOGUE), "validate --data empty --out out"),
    "empty folder to train on": Bad(nothing, ("empty: ", *NO_CATALOGUE), "train --data empty --out out"),
    "empty folder to import": Bad(nothing, ("empty: ", *NO_CATALOGUE), "import --source empty --to raw"),
    "labels missing": Bad(
        lambda shop: (shop / LABELS_FILE).unlink(), ("shop: is not a catalogue", f"{LABELS_FILE} missing", "`aisle")
    ),
    "a folder where a table should be": Bad(
        folder_for_a_table,
        ("shop: is not a catalogue", f"{TRAIN_FILE} missing", "`aisle import --help`"),
    ),
    "wrong columns": Bad(
        replaced(TRAIN_FILE, "designation", "nom"),
        (TRAIN_FILE, "has no column 'designation'", "Its columns are '', 'nom', 'description'"),
    ),
    "wrong columns of the labels": Bad(
        replaced(LABELS_FILE, "prdtypecode", "code"),
        (LABELS_FILE, "has no column 'prdtypecode'", "Its columns are '', 'code'"),
    ),
    "column twice": Bad(
        replaced(TRAIN_FILE, "description", "designation"),
        (TRAIN_FILE, "two columns for 'designation'", "Remove one"),
    ),
    "two columns for one thing": Bad(
        replaced(TRAIN_FILE, ",designation,description", "index,designation,key"),
        (TRAIN_FILE, "two columns for 'key'", "Remove one"),
    ),
    "Latin-1": Bad(replaced(TRAIN_FILE, "gonflable", "gonflé", "latin-1"), (f"shop/{TRAIN_FILE}", *NOT_UTF8)),
    "Latin-1 in the header": Bad(
        replaced(TRAIN_FILE, "designation", "désignation", "latin-1"), (f"shop/{TRAIN_FILE}", *NOT_UTF8, "line 1")
    ),
    "Latin-1 labels": Bad(replaced(LABELS_FILE, "L1", "Été", "latin-1"), (LABELS_FILE, "UTF-8: byte 0xC9", "iconv")),
    "Latin-1 table of types": Bad(
        put(TYPES_FILE, "prdtypecode,label\nL1,Été\nP2,Piscines\n".encode("latin-1")),
        (f"shop/{TYPES_FILE}", "is not CSV in UTF-8", "Convert it first"),
    ),
    "UTF-16": Bad(replaced(TRAIN_FILE, "livre", "livre", "utf-16"), (TRAIN_FILE, "is not UTF-8", "Convert it first")),
    "semicolons": Bad(replaced(TRAIN_FILE, ",", ";"), (TRAIN_FILE, "has no column", "by commas, not by ';'")),
    "semicolons in the labels": Bad(
        replaced(LABELS_FILE, ",", ";"), (LABELS_FILE, "has no column", "by commas, not by ';'")
    ),
    "tabs": Bad(replaced(TRAIN_FILE, ",", "\t"), (TRAIN_FILE, "has no column", "by commas, not by '\\t'")),
    "semicolons in the table of types": Bad(
        put(TYPES_FILE, TYPES.replace(b",", b";")), (TYPES_FILE, "no columns prdtypecode and label", "by a comma")
    ),
    "0-byte table": Bad(put(TRAIN_FILE, b""), (f"shop/{TRAIN_FILE}", "is empty", "Write it again as CSV")),
    "0-byte labels": Bad(put(LABELS_FILE, b""), (f"shop/{LABELS_FILE}", "is empty", "Write it again as CSV")),
    "0-byte table of types": Bad(put(TYPES_FILE, b""), (f"shop/{TYPES_FILE}", "has no columns", "Separate them")),
    "table of types without rows": Bad(
        put(TYPES_FILE, b"prdtypecode,label\n"), (f"shop/{TYPES_FILE}", "has no rows", "Give each type its code")
    ),
    "table of types with a short row": Bad(
        put(TYPES_FILE, b"label,prdtypecode\nLivres,L1\nPiscines\n"), (TYPES_FILE, "a row without a code", "Give")
    ),
    "type twice": Bad(put(TYPES_FILE, TYPES + b"L1,Autres\n"), (TYPES_FILE, "type L1 stands twice", "Keep")),
    "header only": Bad(only_header(TRAIN_FILE), ("shop: has no rows", "quarantine.csv"), refused=True),
    "header only of the labels": Bad(
        only_header(LABELS_FILE), ("shop: 120 of 120 rows", "120 label_missing", "--max-bad"), refused=True
    ),
    "row with too many cells": Bad(
        added(TRAIN_FILE, "120,a,b,3,4,5"), (TRAIN_FILE, "6 cells in the row that ends in line 122", "quotes")
    ),
    "quote that is never closed": Bad(
        added(TRAIN_FILE, '120,"livre,,1,2'), (TRAIN_FILE, "cannot be read as a table", "needs quotes")
    ),
    "duplicate key in the labels": Bad(
        added(LABELS_FILE, "3,L1"), (LABELS_FILE, "key 3 stands 2 times", "Keep one of its rows")
    ),
    "empty keys in the labels": Bad(
        added(LABELS_FILE, ",L1\n,L1"), (LABELS_FILE, "an empty key stands 2 times", "Keep one of its rows")
    ),
    "duplicate keys in the products": Bad(
        replaced(TRAIN_FILE, "\n1", "\n"), ("shop: ", "key_duplicate", "--max-bad", "quarantine.csv"), refused=True
    ),
    "unknown labels": Bad(
        put(TYPES_FILE, b"prdtypecode,label\nL1,Livres\n"), ("shop: 60 of 120", "60 label_unknown", "--max-bad"),
        refused=True,
    ),
    "type of the table without a product": Bad(
        put(TYPES_FILE, TYPES + b"V3,Velos\n"), ("shop: no valid row of type V3", "--allow-missing-types"),
        refused=True,
    ),
    "types that become each other": Bad(
        put(CHANGES_FILE, b"prdtypecode,becomes\nA,B\nB,A\n"), (CHANGES_FILE, "(A → B → A)", "Say of each what")
    ),
    "a type that becomes none": Bad(
        put(CHANGES_FILE, b"prdtypecode,becomes\nA,B\n"), (CHANGES_FILE, "type A becomes B, which", "Add B to")
    ),
    "a type that has changed and is there": Bad(
        lambda shop: (put(TYPES_FILE, TYPES)(shop), put(CHANGES_FILE, b"prdtypecode,becomes\nL1,P2\n")(shop)),
        (CHANGES_FILE, "type L1 has changed, and is in the table of types still", "Take it out"),
    ),
    "weights for other products": Bad(
        put(AGREEMENT_FILE, b",agreement\n0,0.9\n"), ("shop: 119 of 120", "119 weight_out_of_range", "--max-bad"),
        refused=True,
    ),
    "weights without weights": Bad(
        put(AGREEMENT_FILE, b",weights\n0,0.9\n"), (AGREEMENT_FILE, "has no column 'agreement'", "Its columns are")
    ),
    "zip cut short": Bad(cut_zip, NO_ZIP),
    "zip cut short, to train on": Bad(cut_zip, NO_ZIP, TRAIN),
    "zip cut short, to predict with": Bad(
        cut_zip, (f"shop/{IMAGES_ZIP}", "is no zip of images", "Pack it again"),
        f"{PREDICT} --images shop/{IMAGES_ZIP}",
    ),
    "text named zip": Bad(put(IMAGES_ZIP, b"no zip"), NO_ZIP),
    "0-byte zip": Bad(put(IMAGES_ZIP, b""), NO_ZIP),
    "zip with a path outside": Bad(zipped(**OUTSIDE), (IMAGES_ZIP, "'../../outside.jpg' leads outside", "Nothing")),
    "zip with a path outside, to train on": Bad(zipped(**OUTSIDE), (IMAGES_ZIP, "leads outside", "Nothing"), TRAIN),
    "bomb": Bad(zipped(**BOMB), (IMAGES_ZIP, "would unpack to 52428800 bytes", "a bomb", "Nothing")),
    "parquet that is none": Bad(
        put("in.parquet", b"no parquet"), ("shop/in.parquet", "cannot be read as a table", "again as parquet"),
        "predict shop/in.parquet --output out.csv",
    ),
    "parquet cut short": Bad(
        lambda shop: put("in.parquet", parquet(shop)[:-9])(shop),
        ("shop/in.parquet", "cannot be read as a table", "again as parquet"),
        "predict shop/in.parquet --output out.csv",
    ),
    "no file to predict": Bad(
        nothing, ("nowhere.csv: there is no such file", "Give a CSV"), "predict nowhere.csv --output out.csv"
    ),
    "no image to predict with": Bad(
        nothing, ("empty: holds no image", "Without --images"), f"{PREDICT} --images empty"
    ),
    "no folder of images to predict with": Bad(
        nothing, ("nowhere: there is no such folder or zip", "--images"), f"{PREDICT} --images nowhere"
    ),
    "images without the columns that name them": Bad(
        renamed_image_column, (TRAIN_FILE, "has no column 'imageid'", "Its columns are"),
        f"{PREDICT} --images shop",
    ),
    "nothing to look at": Bad(
        replaced(TRAIN_FILE, "designation,description", "nom,texte"),
        (TRAIN_FILE, "neither a column 'designation' nor 'description'", "Its columns are"), PREDICT,
    ),
    "nothing to measure against": Bad(
        nothing, (TRAIN_FILE, "has no column 'prdtypecode'", "Its columns are"), f"evaluate --data shop/{TRAIN_FILE}"
    ),
}  # fmt: skip


def parquet(shop: Path) -> bytes:
    buffer = io.BytesIO()
    read_table(shop / TRAIN_FILE).write_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def shop(here: Path, store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue without a fault, an empty folder, and what earlier runs have left."""
    monkeypatch.setenv("MODELS_PATH", str(store.root))
    (here / "empty").mkdir()
    (here / "out").mkdir()
    for name in ("validated.json", "prepared.json", "manifest.json"):
        (here / "out" / name).write_text("an earlier result")
    (here / "out.csv").write_text("an earlier prediction")
    return write_shop(here / "shop")


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_clear_line_and_nothing_is_written(name: str, run: Run, here: Path, shop: Path) -> None:
    case = CASES[name]
    case.spoil(shop)
    before = contents(here)
    ran = run(*case.words.split())
    assert ran.code == case.code
    assert ran.out == ""
    for part in case.says:
        assert part in ran.complaint
    assert but_for_reasons(contents(here)) == before
    assert (here / "out.refused").is_dir() is case.refused
    assert leftovers(here) == []


@pytest.mark.parametrize(
    "name",
    ["Latin-1", "unknown labels", "parquet that is none"],
)
def test_a_process_of_its_own_says_the_same(name: str, processes: Processes, here: Path, shop: Path) -> None:
    case = CASES[name]
    case.spoil(shop)
    before = contents(here)
    ran = processes.run(*case.words.split(), cwd=here, MODELS_PATH=os.environ["MODELS_PATH"])
    assert ran.code == case.code
    assert ran.out == ""
    for part in case.says:
        assert part in ran.complaint
    assert but_for_reasons(contents(here)) == before


def but_for_reasons(files: Files) -> Files:
    """All files but the rows that were refused, with their reasons."""
    return {name: content for name, content in files.items() if not name.startswith("out.refused/")}


@dataclass(frozen=True)
class Wrong:
    """A call that is wrong, or that the machine cannot follow."""

    words: str
    says: Sequence[str]
    code: int = 2
    variables: Sequence[tuple[str, str]] = ()


WRONG = {
    "unknown verb": Wrong("importe", ("No such command 'importe'", "`aisle --help`")),
    "unknown option": Wrong("train --recipes light", ("No such option", "'--recipe'", "`aisle train --help`")),
    "missing option": Wrong("import", ("Missing option '--source'", "`aisle import --help`")),
    "missing argument": Wrong("predict --output out.csv", ("Missing argument 'INPUT'", "`aisle predict --help`")),
    "rows that are no number": Wrong("import --source sample --rows many", ("'--rows'", "'many' is not", "--help`")),
    "too few rows for a sample": Wrong("import --source sample --rows 53", ("54 to 100,000 rows, not 53", "Choose")),
    "share above 1": Wrong("validate --max-bad 2", ("'--max-bad'", "2.0 is not in the range", "--help`")),
    "unknown recipe": Wrong("train --data shop --recipe heavy", ("no recipe 'heavy'", "there is light")),
    "unknown source": Wrong("import --source ftp://shop", ("ftp:// is no source", "Give sample, huggingface, s3://")),
    "unknown field": Wrong(
        f"evaluate --data shop/{TRAIN_FILE} --fields price", ("title, description, image", "price")
    ),
    "unknown kind of output": Wrong(
        f"predict shop/{TRAIN_FILE} --output out.txt", ("out.txt: ", "the output is .csv or .parquet, not .txt")
    ),
    "a file for a folder": Wrong(
        "validate --data out.csv", ("'--data'", "'out.csv' is a file", "`aisle validate --help`")
    ),
    "validate over other files": Wrong("validate --data shop --out shop", ("shop: holds something else", "--out")),
    "prepare over other files": Wrong("prepare --data valid --out shop", ("shop: holds something else", "--out")),
    "train over other files": Wrong("train --data shop --out shop", ("shop: holds something else", "--out")),
    "import over other files": Wrong("import --source sample --to shop", ("shop: holds", "Choose another --to")),
    "a setting that is none": Wrong("validate", ("settings: PORT: ", "valid integer"), variables=[("PORT", "many")]),
    "unknown model": Wrong(
        f"predict shop/{TRAIN_FILE} --output out.csv --model nobody", ("no bundle 'nobody'", "The store has"), 3
    ),
    "folder without a model": Wrong(
        f"predict shop/{TRAIN_FILE} --output out.csv --model shop", ("shop: is not a bundle", "`aisle train`"), 3
    ),
    "no champion yet": Wrong("serve", ("empty: there is no champion", "`aisle run`"), 3, [("MODELS_PATH", "empty")]),
    "output below a file": Wrong(f"predict shop/{TRAIN_FILE} --output out.csv/out.csv", ("out.csv: ",), 1),
    "output that is a folder": Wrong(f"predict shop/{TRAIN_FILE} --output dir.csv", ("dir.csv: Is a directory",), 1),
    "bucket without keys": Wrong(
        "import --source s3://shop --to raw",
        ("s3://shop/: there are no keys for it", "AWS_ACCESS_KEY_ID"),
        5,
        [("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_SHARED_CREDENTIALS_FILE", os.devnull), ("HOME", "/nowhere")],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_one_clear_line(
    name: str, run: Run, here: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = WRONG[name]
    for variable, value in case.variables:
        monkeypatch.setenv(variable, value)
    (here / "dir.csv").mkdir()
    (here / "valid").mkdir()
    (here / "valid" / "validated.json").write_text("{}")
    before = contents(here)
    ran = run(*case.words.split())
    assert ran.code == case.code
    assert ran.out == ""
    for part in case.says:
        assert part in ran.complaint
    assert contents(here) == before
    assert leftovers(here) == []


def test_a_traceback_is_shown_to_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["aisle", "--debug", "validate", "--data", "nowhere"])
    with pytest.raises(InputError):
        main()


@pytest.mark.parametrize("entries", [OUTSIDE, BOMB], ids=["a path outside", "a bomb"])
def test_an_import_refuses_a_harmful_zip_whole(entries: Files, run: Run, here: Path, shop: Path) -> None:
    zipped(**entries)(shop)
    ran = run("import", "--source", "shop", "--to", "raw")
    assert ran.code == 3
    assert f"raw/{IMAGES_ZIP}: the zip is refused" in ran.complaint
    assert not list(here.rglob("outside*"))
    assert not (here / "raw" / IMAGES_ZIP).exists()
    assert leftovers(here) == []
    assert run("train", "--data", "raw").code == 3  # what is half imported is no catalogue


def test_a_bundle_that_was_altered_is_not_used(run: Run, here: Path, shop: Path, store: BundleStore) -> None:
    copy = here / "copy"
    shutil.copytree(store.find("champion"), copy)
    path = copy / "title.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    ran = run("predict", shop / TRAIN_FILE, "--output", "out.csv", "--model", "copy")
    assert ran.code == 3
    assert ran.complaint == "copy: title.safetensors was altered: its sum differs. Restore it or train again."
    assert (here / "out.csv").read_text() == "an earlier prediction"
