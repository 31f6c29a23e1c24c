"""Find the modules whose outputs are a family's sites."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import ModelError
from .family import Family, SiteRule

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class SiteModule:
    """A site's module. number and count: its place among the modules that the rule names."""

    rule: SiteRule
    path: str
    module: nn.Module
    number: int
    count: int


def site_modules(model: nn.Module, family: Family) -> list[SiteModule]:
    """Every site's module in the order in which the model computes them: layer by layer as the rules of one list of
    layers stand, the stack's last. A layer without such a module (None) is left out. Raises ModelError."""
    modules = dict(model.named_modules())
    found: list[tuple[tuple[int, ...], SiteModule]] = []
    lists = list(dict.fromkeys(rule.path.split(".*")[0] for rule in family.sites))
    for place, rule in enumerate(family.sites):
        paths = expand_path(modules, rule.path)
        if not paths:
            raise ModelError(f"family {family.name}: no module {rule.path} in {type(model).__name__}")
        group = len(lists) if ".*" not in rule.path else lists.index(rule.path.split(".*")[0])
        for number, path in enumerate(paths):
            layer = int(re.findall(r"\.(\d+)", path)[0]) if ".*" in rule.path else 0
            last = number == len(paths) - 1 and bool(rule.last_outputs)
            own = replace(rule, outputs=rule.last_outputs) if last else rule
            found.append(((group, layer, place), SiteModule(own, path, modules[path], number, len(paths))))
    return [site for _, site in sorted(found, key=lambda entry: entry[0])]


def block_paths(modules: dict[str, nn.Module], family: Family) -> list[str]:
    """Paths of a family's blocks, in order."""
    return [path for pattern in family.blocks for path in expand_path(modules, pattern)]


def expand_path(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    """Paths of modules that a pattern names, by number: * stands for each number, -1 for the last."""
    if pattern.endswith(".-1"):
        inside = expand_path(modules, pattern.removesuffix("-1") + "*")
        return inside[-1:]
    matcher = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    matches = [match for path in modules if (match := matcher.fullmatch(path))]
    return [match[0] for match in sorted(matches, key=lambda match: tuple(map(int, match.groups())))]
