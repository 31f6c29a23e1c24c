"""Which tokenizers without Python give the ids of the tokenizers library: a table of hard prompts for T5 and CLIP.

    python benchmarks/prompt_tokenizers.py
    python benchmarks/prompt_tokenizers.py --bundle engines/shapes-b8-ort     # and a bundle drawn from C++

Compares onnxruntime-extensions, openvino-tokenizers (`pip install -e .[bench]`) and libsoda_runtime (`make cpp`) on
tests/hard_prompts.py, as far as they are installed. T5 stands for Unigram with SentencePiece's nmt_nfkc, CLIP for byte
pairs in lower case. Both are trained on this repository's pages and the prompts, since the checkpoints' own
vocabularies do not come with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.hard_prompts import HARD, random_prompts  # noqa: E402

BUILD = Path(os.environ.get("SODA_CPP_BUILD", ROOT / "build" / "cpp"))
Encode = Callable[[str], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="of prompts: its latents from C++ and from Python")
    parser.add_argument("--random", type=int, default=3000, help="random prompts for libsoda_runtime besides")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        corpus = [line for path in sorted((ROOT / "docs").glob("*.md")) for line in path.read_text().splitlines()]
        texts = [*corpus, *(text for text in HARD for _ in range(5))]
        for kind, folder in (("T5", _make_t5(Path(scratch), texts)), ("CLIP", _make_clip(Path(scratch), texts))):
            own = Tokenizer.from_file(str(folder / "tokenizer.json"))
            expected = {text: own.encode(text).ids for text in [*HARD, *random_prompts(arguments.random)]}
            for name, open_other in (("openvino-tokenizers", _openvino), ("onnxruntime-extensions", _extensions)):
                try:
                    encode = open_other(folder)
                except ImportError:
                    print(f"{kind} | {name} | not installed")
                    continue
                _say(kind, name, HARD, {text: _tried(encode, text) for text in HARD}, expected)
            for name, chosen in (("hard", HARD), ("random", list(expected)[len(set(HARD)) :])):
                made = dict(zip(chosen, _cpp(folder / "tokenizer.json", chosen), strict=True))
                _say(kind, f"libsoda_runtime, {name}", chosen, made, expected)
    if arguments.bundle:
        _draw(arguments.bundle)


def _say(kind: str, name: str, texts: list[str], made: dict[str, Any], expected: dict[str, list[int]]) -> None:
    wrong = [text for text in texts if made[text] != expected[text]]
    print(f"{kind} | {name} | {len(wrong)} of {len(texts)} wrong | {', '.join(repr(text[:24]) for text in wrong[:8])}")


def _tried(encode: Encode, text: str) -> Any:
    try:
        return encode(text)
    except Exception as error:
        return str(error)


def _make_t5(scratch: Path, texts: list[str]) -> Path:
    import sentencepiece
    from transformers import T5Tokenizer

    folder = scratch / "t5"
    folder.mkdir()
    (scratch / "corpus.txt").write_text("\n".join(text.replace("\n", " ") for text in texts))
    sentencepiece.SentencePieceTrainer.train(
        input=str(scratch / "corpus.txt"), model_prefix=str(folder / "spiece"), vocab_size=3000, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    T5Tokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def _make_clip(scratch: Path, texts: list[str]) -> Path:
    from transformers import CLIPTokenizer

    folder, alphabet = scratch / "clip", pre_tokenizers.ByteLevel.alphabet()
    folder.mkdir()
    like = Tokenizer.from_file(str(ROOT / "soda_export/models/builtin/scenes/tokenizer/tokenizer.json"))
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer, trained.pre_tokenizer = like.normalizer, like.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    names = [*model["vocab"], *alphabet, *(f"{c}</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>"]
    merges = [" ".join(merge) for merge in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(dict.fromkeys(names))}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def _openvino(folder: Path) -> Encode:
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    converted = convert_tokenizer(AutoTokenizer.from_pretrained(folder), with_detokenizer=False)
    model = openvino.Core().compile_model(converted, "CPU")
    return lambda text: [int(i) for i in model([text])["input_ids"][0]]


def _extensions(folder: Path) -> Encode:
    from onnxruntime_extensions.pp_api import Tokenizer as Extension

    tokenizer = Extension(str(folder))
    return lambda text: [int(i) for i in np.asarray(tokenizer.tokenize(text)).ravel()]


def _cpp(path: Path, texts: list[str]) -> list[list[int]]:
    given = json.dumps(texts, ensure_ascii=False).encode()
    command = [str(BUILD / "bin" / "drive_tokenizer"), str(path), "4096", "none", "-1"]
    made = json.loads(subprocess.run(command, input=given, capture_output=True, check=True).stdout)
    return [each["ids"][: sum(each["mask"])] for each in made]


def _draw(folder: Path) -> None:
    from soda_runtime import Session

    from tests.cpp.library import load
    from tests.cpp.test_tokenizer import prompts

    python, cpp = Session.open(folder, threads=1), load().open(folder, threads=1).session()
    worst = 0.0
    for seed, text in enumerate(["a red circle", "two  BLUE squares above a green triangle", "caf\u00e9 🎨 red", ""]):
        expected = python.generate(prompt=text, seed=seed)
        worst = max(worst, float(np.abs(cpp.generate(**prompts([text], seed=seed)) - expected).max()))
    print(f"{folder}: latents of prompts, C++ against Python: largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
