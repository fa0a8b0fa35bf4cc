"""The recipe `full` on tiny networks, where PyTorch is: `python tiny_full.py PREPARED FOLDER`.

Networks of the kinds that the recipe begins with are made at random in FOLDER, with tokenizers that learnt from the
catalogue; then a bundle is trained there, and what is told of the way goes to `told.json`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import sentencepiece
import torch
import transformers

from aisle.data.prepare import Prepared
from aisle.errors import AisleError
from aisle.model.classifier import IMAGE
from aisle.training.examples import Examples
from aisle.training.full.graphs import viewers_graph
from aisle.training.full.images import encode_ahead
from aisle.training.full.loading import Viewer, load_tokenizer
from aisle.training.recipes import Full, full
from aisle.training.train import train

SIZE = 32
PIECES = 400
READERS, VIEWERS = ("camembert", "xlm-r"), ("convnext", "swin", "siglip")


def save_readers(folder: Path, texts: Path) -> None:
    """One with its tokenizer as SentencePiece writes it, one as the package transformers does: the hub has both."""
    kinds = {
        "camembert": (transformers.CamembertConfig, transformers.CamembertTokenizer),
        "xlm-r": (transformers.XLMRobertaConfig, transformers.XLMRobertaTokenizer),
    }
    for name, (config, tokenizer) in kinds.items():
        (folder / name).mkdir()
        model = folder / name / "sentencepiece.bpe"
        sentencepiece.SentencePieceTrainer.train(
            input=str(texts), model_prefix=str(model), vocab_size=PIECES, model_type="unigram", minloglevel=2
        )
        cut = tokenizer.from_pretrained(folder / name)
        if name == "xlm-r":
            model.with_suffix(".bpe.model").unlink()
            cut.save_pretrained(folder / name)
        small = config(
            vocab_size=len(cut), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=66, type_vocab_size=1, pad_token_id=cut.pad_token_id,
            bos_token_id=cut.bos_token_id, eos_token_id=cut.eos_token_id,
        )  # fmt: skip
        transformers.AutoModelForMaskedLM.from_config(small).save_pretrained(folder / name)


def save_viewers(folder: Path) -> None:
    seeing = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for name, config in {
        "convnext": transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, image_size=SIZE),
        "swin": transformers.SwinConfig(
            image_size=SIZE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
        ),
        # of another size than the others, as a checkpoint may be
        "siglip": transformers.SiglipConfig(vision_config={**seeing, "image_size": 24, "patch_size": 8}),
    }.items():
        transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder / name)
    wanted = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "convnext" / "preprocessor_config.json").write_text(json.dumps(wanted))


def tiny(folder: Path) -> Full:
    """Small images, few epochs, large steps; everything else as it is."""
    readers, viewers = (",".join(str(folder / name) for name in names) for names in (READERS, VIEWERS))
    recipe = full(text_models=readers, image_models=viewers, fine_tune=2)
    text, image, tuning = recipe.text, recipe.image, replace(recipe.text.tuning, rate=2e-3)
    return replace(recipe, text=replace(text, tuning=tuning), image=replace(image, size=SIZE, tuning=tuning))


def cut_alike(folder: Path, titles: list[str], descriptions: list[str]) -> float:
    """The share of texts that bundles cut as the pretrained tokenizers do, with and without a description."""
    alike: list[bool] = []
    titles, descriptions = [*titles, "Papier 80 g/m² ½ … №", "l’été « 30 x 40 »"], [*descriptions, "", "Ａ ﬁn ™"]
    for name in READERS:
        theirs = transformers.AutoTokenizer.from_pretrained(folder / name)
        ours = load_tokenizer(str(folder / name), most_pieces=1_000)
        ours.most_pieces = 1_000
        for title, text in zip(titles, descriptions, strict=True):
            both = (title, text) if title and text else (title or text,)
            alike.append(bool(theirs(*both)["input_ids"] == ours.ids("\n".join(both)).tolist()))
    return sum(alike) / len(alike)


def encoded_ahead(folder: Path, prepared: Prepared) -> int:
    """How many images a network encoded as its graph does, as a GPU would ahead of the graph."""
    examples = Examples(prepared, folder / "no cache", threads=2)
    viewer = Viewer(str(folder / "convnext"), len(examples.codes), SIZE, seed=0).eval()
    heads = [viewer.without_head()]
    graph = viewers_graph([viewer], SIZE)
    encode_ahead([viewer], graph, heads, SIZE, examples, torch.device("cpu"))
    rows = examples.rows(graph=graph)
    return 0 if (folder / "no cache").exists() else int(rows.inputs.has(IMAGE).sum())


def refusal(name: str) -> str:
    try:
        load_tokenizer(name, most_pieces=64)
    except AisleError as error:
        return f"{error.exit_code}: {error}"
    return ""


if __name__ == "__main__":
    prepared, folder = Prepared.open(Path(sys.argv[1])), Path(sys.argv[2])
    transformers.set_seed(0)
    table = prepared.products()
    titles, descriptions = table["title"].to_list(), table["description"].to_list()
    if not (folder / "siglip").exists():
        (folder / "texts").write_text("\n".join([*titles, *descriptions]))
        save_readers(folder, folder / "texts")
        save_viewers(folder)
    told = {
        "cut_alike": cut_alike(folder, titles, descriptions),
        "encoded_ahead": encoded_ahead(folder, prepared),
        "refusal": refusal("nobody/nothing"),
    }
    (folder / "told.json").write_text(json.dumps(told))
    train(tiny(folder), prepared, folder / "bundle", cache=folder / "cache", threads=2)
