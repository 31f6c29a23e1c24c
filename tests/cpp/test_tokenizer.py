"""Prompts in C++: the ids of the tokenizers library on hard texts, and requests that are those of Python."""

from __future__ import annotations

import ctypes
import json
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from soda_runtime import BundleError, RequestError, Session

from tests.hard_prompts import HARD, random_prompts
from tests.runtime.bundles import GOLDEN_V5, GOLDEN_V5_TEXT, copy_golden, fix_hashes, golden_request, relative

from .library import BUILD, ROOT, Library, has_backend

text = pytest.importorskip("soda_runtime.text")
pytest.importorskip("tokenizers")
BUILT_IN = ROOT / "soda_export" / "models" / "builtin"
TEXTS = [*HARD, *random_prompts(400)]
LONG = "a red circle above a blue circle above a red circle"


@pytest.fixture(scope="module", params=["shapes", "scenes", "t5"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json: Unigram without and with SentencePiece's table of replacements, and CLIP's byte pairs."""
    if request.param != "t5":
        return BUILT_IN / str(request.param) / "tokenizer" / "tokenizer.json"
    import sentencepiece
    import transformers

    folder = tmp_path_factory.mktemp("t5")
    (folder / "corpus.txt").write_text("\n".join([*HARD[2:44], *HARD[50:], Path(__file__).read_text()] * 2))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spiece"), vocab_size=600, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    transformers.T5Tokenizer.from_pretrained(folder, extra_ids=0).save_pretrained(folder)
    return folder / "tokenizer.json"


def tokenize(path: Path, tokens: int, clean: str, texts: list[str]) -> list[dict[str, Any]]:
    """By the C++ library."""
    program = BUILD / "bin" / "drive_tokenizer"
    if not program.exists():
        pytest.skip(f"{program.name} has not been built; run `make cpp`")
    given = json.dumps(texts, ensure_ascii=False).encode()
    done = subprocess.run([program, path, str(tokens), clean, "-1"], input=given, capture_output=True, check=True)
    made: list[dict[str, Any]] = json.loads(done.stdout)
    return made


@pytest.mark.parametrize("clean", ["none", "strip", "lower-strip", "unescape-collapse"])
@pytest.mark.parametrize("tokens", [24, 400])
def test_ids_are_those_of_the_tokenizers_library(tokenizer: Path, clean: Any, tokens: int) -> None:
    texts = [each for each in TEXTS if clean != "unescape-collapse" or "&" not in each]
    expected = text.PromptTokenizer(tokenizer, tokens, clean).encode(texts)
    made = tokenize(tokenizer, tokens, clean, texts)
    wrong = [
        each for each, own, ids, mask in zip(texts, made, expected.ids, expected.mask, strict=True)
        if own["ids"] != ids.tolist() or own["mask"] != mask.tolist()
    ]  # fmt: skip
    assert not wrong
    assert [number for number, own in enumerate(made) if "lost" in own] == list(expected.lost)


def test_what_a_prompt_loses_is_its_end(tokenizer: Path) -> None:
    (made,) = tokenize(tokenizer, 8, "none", ["a red circle above " + LONG])
    assert made["lost"]
    assert LONG.endswith(made["lost"])


def c_texts(texts: list[str]) -> Any:
    return (ctypes.c_char_p * len(texts))(*(each.encode() for each in texts))


def prompts(prompt: list[str], negative: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    fields |= {"prompts": c_texts(prompt), "num_texts": len(prompt)}
    if negative is not None:
        fields |= {"negative_prompts": c_texts(negative), "num_negative_texts": len(negative)}
    return fields


@pytest.fixture
def library_of_ort(library: Library) -> Library:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")
    return library


def test_a_prompt_gives_the_latents_of_python(library_of_ort: Library) -> None:
    asked = golden_request(GOLDEN_V5_TEXT)
    session, python = library_of_ort.open(GOLDEN_V5_TEXT, threads=1).session(), Session.open(GOLDEN_V5_TEXT, threads=1)
    assert session.info.takes_prompts
    found = session.generate(**prompts(asked["prompt"], [asked["negative_prompt"]], seed=asked["seed"]))
    assert relative(found, python.generate(**asked)) <= 1e-6
    found = session.generate(**prompts(["a red circle"], seed=3, samples=2))
    assert relative(found, python.generate(prompt="a red circle", seed=3, batch=2)) <= 1e-6


def test_cut_prompts_are_told(library_of_ort: Library) -> None:
    session, python = library_of_ort.open(GOLDEN_V5_TEXT, threads=1).session(), Session.open(GOLDEN_V5_TEXT, threads=1)
    session.start(**prompts(["a red circle", LONG], [LONG.upper()]))
    python.start(prompt=["a red circle", LONG], negative_prompt=LONG.upper())
    names = {"prompt": "prompts", "negative_prompt": "negative_prompts"}
    assert session.truncated() == [(names[f], *rest) for f, *rest in python.truncated]
    session.start(**prompts(["a red circle"]))
    assert session.truncated() == []


def test_prompts_that_do_not_fit_are_refused(library_of_ort: Library, tmp_path: Path) -> None:
    labels = library_of_ort.open(GOLDEN_V5, threads=1).session()
    assert not labels.info.takes_prompts
    with pytest.raises(RequestError, match="class labels"):
        labels.start(**prompts(["a red circle"]))
    session = library_of_ort.open(GOLDEN_V5_TEXT, threads=1).session()
    with pytest.raises(RequestError, match="one per sample"):
        session.start(**prompts(["a", "b"], ["c", "d", "e"]))
    with pytest.raises(RequestError, match="prompts_2: the prompts of this bundle go to 1"):
        session.start(**prompts(["a"], prompts_2=c_texts(["b"])))
    with pytest.raises(RequestError, match="not valid UTF-8"):
        session.start(prompts=(ctypes.c_char_p * 1)(b"\xff"), num_texts=1)
    folder = copy_golden(tmp_path / "bundle", GOLDEN_V5_TEXT)
    content = json.loads((folder / "tokenizer.json").read_text())
    for change, error, message in (
        ({"model": {"type": "WordPiece", "vocab": {}}}, RequestError, "a model WordPiece"),
        ({"normalizer": {"type": "Nmt"}}, RequestError, "a normalizer Nmt"),
        ({"model": {"type": "Unigram"}}, BundleError, "not a tokenizer"),
    ):
        (folder / "tokenizer.json").write_text(json.dumps(content | change))
        fix_hashes(folder)
        with pytest.raises(error, match=message):
            library_of_ort.open(folder, threads=1).session().start(**prompts(["a"]))


def test_the_example_draws_a_prompt_as_png(library_of_ort: Library, tmp_path: Path) -> None:
    """A process without Python, from a prompt to a picture."""
    program = BUILD / "bin" / "soda-generate"
    done = subprocess.run(
        [program, GOLDEN_V5_TEXT, tmp_path / "out-", LONG, "5"], capture_output=True, text=True, check=True, env={}
    )
    assert "the prompt loses: " in done.stderr
    assert "python" not in subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    python = Session.open(GOLDEN_V5_TEXT, threads=1)
    python.generate(prompt=LONG, seed=5)
    expected = np.round(python.images()[0] * 255)
    assert np.abs(read_png(tmp_path / "out-0.png") - expected).max() <= 1


def read_png(path: Path) -> np.ndarray:
    """[height, width, channels], with every checksum looked at."""
    content, at, data, header = path.read_bytes(), 8, b"", b""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        body = content[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + body) == int.from_bytes(content[at + 8 + size : at + 12 + size], "big")
        data, header = data + body * (kind == b"IDAT"), body if kind == b"IHDR" else header
        at += 12 + size
    width, height, channels = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big"), 3
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels).astype(np.float32)
