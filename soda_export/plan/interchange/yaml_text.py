"""YAML read strictly: no key twice, no aliases, no types beyond JSON's."""

from __future__ import annotations

from typing import Any

import yaml

from ...errors import PlanError

_JSON_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null"))


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """An alias may make a small file huge, and a second key would silently replace the first."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise PlanError(f"line {self.peek_event().start_mark.line + 1}: aliases are not read; write the value out")
        node = super().compose_node(parent, index)
        if node is not None and node.tag not in _JSON_TAGS:
            raise PlanError(f"line {node.start_mark.line + 1}: a value of type {node.tag!r:.60} is not read")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                raise PlanError(f"line {key.start_mark.line + 1}: a key that is no word, or stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(content: bytes) -> Any:
    """The one document of a YAML file, or of a JSON file, which YAML contains. Raises PlanError."""
    try:
        return yaml.load(content.decode(), _Loader)
    except UnicodeDecodeError:
        raise PlanError("is not a text in UTF-8") from None
    except RecursionError:
        raise PlanError("not valid YAML (too many values within one another)") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise PlanError(f"not valid YAML ({line}{error.problem or error.context})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise PlanError(f"not valid YAML ({' '.join(str(error).split())})") from None
