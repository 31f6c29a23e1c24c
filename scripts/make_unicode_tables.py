"""Unicode tables for the C++ runtime's tokenizer, as the tokenizers library has them, into a header.

    python scripts/make_unicode_tables.py runtime/cpp/src/text/unicode_tables.inc

Classes of characters, lower case and canonical composition are asked of the library itself, so that both runtimes give
the same ids whatever Unicode version it was made with; what it does not tell (combining classes, case in context) comes
from `unicodedata` and from the package `regex`. Needs sentencepiece.
"""

from __future__ import annotations

import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import regex  # type: ignore[import-untyped]
import sentencepiece
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import T5Tokenizer

_CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
_HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic


def main() -> None:
    lines = ["// Made by scripts/make_unicode_tables.py, not by hand."]
    classes = {
        "letter": _matched(r"\p{L}"), "number": _matched(r"\p{N}"), "white": _matched(r"\s"),
        "cased": _where(r"\p{Cased}"), "case_ignorable": _where(r"\p{Case_Ignorable}"),
        "extending": _extending(),
        "prepended": _where(r"\p{GCB=Prepend}"), "control": _where(r"[\p{GCB=Control}\p{GCB=CR}\p{GCB=LF}]"),
    }  # fmt: skip
    for name, codes in classes.items():
        lines += _array("Range", f"{name}_ranges", [f"{{{a:#x},{b:#x}}}" for a, b in _ranges(codes)])
    lower = normalizers.Lowercase()
    mapped = {c: lower.normalize_str(chr(c)) for c in _CODES}
    single = {c: ord(text) - c for c, text in mapped.items() if len(text) == 1 and text != chr(c)}
    lines += _array("Shift", "lower_shifts", [f"{{{a:#x},{b:#x},{s},{d}}}" for a, b, s, d in _shifts(single)])
    longer = [(c, text) for c, text in mapped.items() if len(text) > 1]
    lines += _array("Triple", "lower_pairs", [_triple(c, text) for c, text in longer])
    lines += _array("Triple", "compositions", _compositions())
    decomposed = {c: normalizers.NFD().normalize_str(chr(c)) for c in _CODES if c not in _HANGUL}
    full = [(c, text) for c, text in decomposed.items() if text != chr(c)]
    lines += _array("Decomposition", "decompositions", [_decomposition(c, text) for c, text in full])
    combining = [(c, unicodedata.combining(chr(c))) for c in _CODES if _is_mark(chr(c))]
    ranked = [
        f"{{{a:#x},{b:#x},{rank}}}"
        for rank in sorted({rank for _, rank in combining})
        for a, b in _ranges(c for c, own in combining if own == rank)
    ]
    lines += _array("Ranked", "combining_classes", ranked)
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n")


def _matched(pattern: str) -> list[int]:
    """Characters that the library's regular expressions match."""
    split, found = pre_tokenizers.Split(Regex(pattern), "removed", invert=True), []
    for start in range(0, len(_CODES), 1 << 14):
        part = _CODES[start : start + (1 << 14)]
        pieces = split.pre_tokenize_str("".join(map(chr, part)))
        found += [part[i] for _, (a, b) in pieces for i in range(a, b)]
    return found


def _extending() -> list[int]:
    """Characters that join the one before them to a grapheme. The library tells by its quirk: of a cluster of fewer
    than six bytes that begins with what SentencePiece's table replaces, the rest is lost."""
    normalize = _precompiled().normalize_str
    known = set(_where(r"[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]"))
    for code in _CODES:
        if code < 0x10000 and normalize(chr(code)):  # what is replaced by nothing does not tell, nor does it matter
            joins = normalize(f"½{chr(code)}") == normalize("½")
            (known.add if joins else known.discard)(code)
    return sorted(known)


def _precompiled() -> normalizers.Normalizer:
    """SentencePiece's nmt_nfkc, as T5's tokenizers have it."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch)
        (path / "texts").write_text("a red circle above a blue square\n" * 9)
        sentencepiece.SentencePieceTrainer.train(
            input=str(path / "texts"), model_prefix=str(path / "spiece"), vocab_size=30, model_type="unigram",
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        normalizer: normalizers.Normalizer = T5Tokenizer.from_pretrained(path, extra_ids=0).backend_tokenizer.normalizer
        return normalizer


def _where(pattern: str) -> list[int]:
    matches: Callable[[str], object] = regex.compile(pattern).match
    return [c for c in _CODES if matches(chr(c))]


def _ranges(codes: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each run, both included."""
    found: list[list[int]] = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return [(a, b) for a, b in found]


def _shifts(shift_of: dict[int, int]) -> list[tuple[int, int, int, int]]:
    """Runs of characters, every one or every other, that move by as much: first, last, step, shift."""
    found: list[list[int]] = []
    for code, shift in sorted(shift_of.items()):
        if found:
            first, last, step, own = found[-1]
            gap = code - last
            if own == shift and (gap == step or (first == last and gap in (1, 2))):
                found[-1][1:3] = [code, gap]
                continue
        found.append([code, code, 1, shift])
    return [(a, b, s, d) for a, b, s, d in found]


def _compositions() -> list[str]:
    """Pairs that the library composes: first, second, composed."""
    nfc, found = normalizers.NFC(), []
    for code in _CODES:
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (chr(int(part, 16)) for part in parts)
            if nfc.normalize_str(first + second) == chr(code):
                found.append((ord(first), ord(second), code))
    return [f"{{{a:#x},{b:#x},{c:#x}}}" for a, b, c in sorted(found)]


def _is_mark(character: str) -> bool:
    """Whether the library, too, sorts it among the marks on a letter."""
    rank, below, above = unicodedata.combining(character), "\u0316", "\u0301"
    if not rank:
        return False
    given = above + character if rank < unicodedata.combining(above) else character + below
    return normalizers.NFD().normalize_str(given) != given


def _triple(code: int, text: str) -> str:
    first, second = map(ord, text)
    return f"{{{code:#x},{first:#x},{second:#x}}}"


def _decomposition(code: int, text: str) -> str:
    parts = [ord(c) for c in text] + [0] * (4 - len(text))
    return f"{{{code:#x},{{{','.join(f'{part:#x}' if part else '0' for part in parts)}}}}}"


def _array(kind: str, name: str, entries: list[str]) -> list[str]:
    lines, line = [f"constexpr {kind} {name}[] = {{"], "   "
    for entry in entries:
        if len(line) + len(entry) + 2 > 120:
            lines.append(line)
            line = "   "
        line += f" {entry},"
    return [*lines, line, "};"]


if __name__ == "__main__":
    main()
