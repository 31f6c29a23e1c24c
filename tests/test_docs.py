"""Documents name only what exists: files, modules, make targets, verbs and options; their examples work."""

from __future__ import annotations

import dataclasses
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from soda_export.cli.app import _VERBS, make_app
from soda_export.models.families import FAMILIES
from soda_export.models.family import Family, SiteRule
from soda_export.models.published import published_models

ROOT = Path(__file__).parent.parent
_FIRST_DECISION = 24  # older ones tell what was
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "engines/README.md")),
    *(ROOT / "docs/results" / name for name in ("README.md", "planners.md", "speed.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(path for path in sorted((ROOT / "docs/decisions").glob("*.md")) if int(path.name[:4]) >= _FIRST_DECISION),
]
_BASES = [ROOT / folder for folder in ("", "soda_export", "soda_export/models", "runtime/cpp", "runtime/python")]
_BASES.append(ROOT / "runtime/python/soda_runtime")
_OWN_SUFFIXES = (".py", ".md", ".cpp", ".hpp", ".h", ".sh", ".toml", ".cmake")  # other files may be made by the product
_FOLDERS = ("soda_export", "runtime", "docs", "tests", "benchmarks", "scripts", "examples")
_PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(_FOLDERS)})/(?:[\w./<>-]|\*(?!\*))*[\w/>]")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)#\s]+)\)")
_MODULE = re.compile(r"\bsoda_export(?:\.\w+)+")
_MAKE = re.compile(r"(?:^    |`|;)make ([a-z][\w-]*)", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def spans(text: str) -> list[str]:
    """What stands between backticks, on one line each; fenced blocks are none."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in _SPAN.findall(outside)]


def code_lines(text: str) -> list[str]:
    """Lines of indented and fenced blocks that call the command, without their comments."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^    (soda-export .*)$", text, re.MULTILINE)
    lines += [line for block in blocks for line in block.splitlines() if line.startswith("soda-export ")]
    return [line.partition("#")[0].partition(">")[0].strip() for line in lines]


def exists(name: str, document: Path) -> bool:
    """Whether the repository has a file or folder of that name. Capital words and <words> stand for any; a decision may
    be named by its number."""
    pattern = re.sub(r"<\w+>|(?<![A-Za-z_])[A-Z]{3,}(?=\.(?:py|json))", "*", name).rstrip("/")
    if "/" not in pattern:
        return (ROOT / pattern).exists() or any(any((ROOT / folder).rglob(pattern)) for folder in _FOLDERS)
    end = "*" if re.search(r"/\d{4}$", pattern) else ""
    return any(any(base.glob(pattern + end)) for base in (document.parent, *_BASES))


@each_document
def test_every_file_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text()
    named = set(_PATH.findall(text))
    named |= {span for span in spans(text) if span.endswith(_OWN_SUFFIXES) and " " not in span}
    assert sorted(name for name in named if not exists(name, path)) == []
    links = [link for link in _LINK.findall(text) if not link.startswith("http")]
    assert [link for link in links if not (path.parent / link).exists()] == []


@each_document
def test_every_module_and_make_target_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text()
    for module in _MODULE.findall(text):
        place = ROOT / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(_MAKE.findall(text)) <= targets


@cache
def verb_app(verb: str) -> App:
    return make_app(verb)[verb]


@cache
def options_of(verb: str) -> frozenset[str]:
    collection = verb_app(verb).assemble_argument_collection()
    names = {name for argument in collection for name in argument.names if name.startswith("--")}
    return frozenset(names | {"--help"})


@each_document
def test_every_verb_and_option_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text()
    for span in spans(text):
        words = re.fullmatch(r"soda-export ([a-z]+)\b(.*)", span)
        if words:
            assert words[1] in _VERBS, span
            assert set(_OPTION.findall(words[2])) <= options_of(words[1]), span
        elif span.startswith("--"):
            known = {option for verb in _VERBS for option in options_of(verb)}
            assert set(_OPTION.findall(span)) <= known, span


@each_document
def test_every_example_of_the_command_line_is_understood(path: Path) -> None:
    for line in code_lines(path.read_text()):
        _, verb, *words = shlex.split(line)
        make_app(verb).parse_args([verb, *words], exit_on_error=False, print_error=False)


def test_every_entry_function_of_the_layout_table_is_in_its_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `((?:soda_export|runtime)[^`]*)` \|.*\| (`[^|]*`) \|$", text, re.MULTILINE)
    assert len(rows) > 10
    for folder, entries in rows:
        source = "\n".join(file.read_text() for file in sorted((ROOT / folder).rglob("*.py")))
        for entry in re.findall(r"`([\w.]+)`", entries):
            for name in entry.split("."):
                assert re.search(rf"^\s*(?:def|class) {name}\b", source, re.MULTILINE), (folder, entry)


def test_families_aliases_and_fields_are_all_described() -> None:
    backends, models, adding = (
        (ROOT / "docs" / name).read_text() for name in ("backends.md", "models.md", "adding_a_model.md")
    )
    for kind, family in FAMILIES.items():
        assert f"`{family.name}`" in backends
        assert f"`{family.name}`" in models
        assert kind in backends
        assert kind in models
    assert [alias for alias in published_models() if f"`{alias}`" not in models] == []
    for record in (Family, SiteRule):
        fields = [field.name for field in dataclasses.fields(record)]
        assert [field for field in fields if not re.search(rf"`{field}\b", adding)] == []


def test_the_example_of_a_family_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page's own record, toy model and test, as a contributor would paste them."""
    import tests.models.test_families as test_families
    from tests import tiny_models

    text = (ROOT / "docs/adding_a_model.md").read_text()
    record, test, toy = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(record.splitlines()) <= 80
    scope: dict[str, Any] = {"__package__": "soda_export.models.families", "__name__": "soda_export.models.families.x"}
    exec(record, scope)
    (family,) = (value for value in scope.values() if isinstance(value, Family))
    for kind in family.classes:
        monkeypatch.setitem(FAMILIES, kind, family)
    scope = {**vars(test_families), **vars(tiny_models)}
    exec(toy, scope)
    exec(test, scope)
    scope["test_an_auraflow_is_called_as_its_pipeline_does"](tmp_path)
