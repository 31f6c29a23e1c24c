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
    """A site's module."""

    rule: SiteRule
    path: str
    module: nn.Module


def site_modules(model: nn.Module, family: Family) -> list[SiteModule]:
    """Every site's module, rule by rule. A layer without such a module (None) is left out. Raises ModelError."""
    modules = dict(model.named_modules())
    found = []
    for rule in family.sites:
        paths = expand_path(modules, rule.path)
        if not paths:
            raise ModelError(f"family {family.name}: no module {rule.path} in {type(model).__name__}")
        for number, path in enumerate(paths):
            last = number == len(paths) - 1 and bool(rule.last_outputs)
            own = replace(rule, outputs=rule.last_outputs) if last else rule
            found.append(SiteModule(own, path, modules[path]))
    return found


def block_paths(modules: dict[str, nn.Module], family: Family) -> list[str]:
    """Paths of a family's blocks, in order; those of patterns in one word group take turns."""
    found = []
    for patterns in family.blocks:
        expanded = [expand_path(modules, pattern) for pattern in patterns.split()]
        found += [path for layer in zip(*expanded, strict=True) for path in layer]
    return found


def expand_path(modules: dict[str, nn.Module], pattern: str) -> list[str]:
    """Paths of modules that a pattern names, by number: * stands for each number, -1 for the last, -2 for the one
    before."""
    counted = re.search(r"\.-(\d+)", pattern)
    if counted is not None:
        inside = expand_path(modules, pattern[: counted.start()] + ".*")
        behind = pattern[counted.end() :]
        return expand_path(modules, inside[-int(counted[1])] + behind) if len(inside) >= int(counted[1]) else []
    matcher = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
    matches = [match for path in modules if (match := matcher.fullmatch(path))]
    return [match[0] for match in sorted(matches, key=lambda match: tuple(map(int, match.groups())))]
