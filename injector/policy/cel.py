"""Python values and templates as CEL (https://cel.dev), the API server's expression language."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

# Of what we add to a pod, these are maps; all other objects are structures that CEL types by their path.
_MAPS: Final = ("requests", "limits")


class Cel(str):
    """An expression, where otherwise text would stand."""

    __slots__ = ()

    def __str__(self) -> str:
        """As plain text: what is no str itself cannot be written as YAML."""
        return "".join(self)


class Maybe(NamedTuple):
    """A field, or an item of a list, that is there if `condition` holds."""

    condition: Cel
    value: Any


def quoted(text: str) -> Cel:
    """A string literal. JSON's escapes are among CEL's."""
    return Cel(json.dumps(text))


def choice(condition: str, yes: str, otherwise: str) -> Cel:
    return Cel(f"({condition}) ? ({yes}) : ({otherwise})")


def filled(template: str, **parts: str) -> Cel:
    """A str.format template as a sum of strings. A part that is Cel is an expression, any other a text."""
    pieces: list[str] = []
    text = ""
    for literal, field, _, _ in string.Formatter().parse(template):
        text += literal
        if field is None:
            continue
        part = parts[field]
        if isinstance(part, Cel):
            pieces += [quoted(text), f"({part})"] if text else [f"({part})"]
            text = ""
        else:
            text += part
    if text:
        pieces.append(quoted(text))
    return Cel(" + ".join(pieces) or '""')


def in_quotes(expression: str) -> Cel:
    """A text of the pod as Python's repr has it, nearly always."""
    return Cel(f'"\'" + {expression} + "\'"')


def literal(value: Any, path: str) -> str:
    """`value` as CEL, at a path such as Object.spec.volumes: dicts are structures of its type."""
    if isinstance(value, Cel):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return _structure(value, path)
    if isinstance(value, Sequence):
        return _list(value, path)
    raise TypeError(f"{path}: no CEL for {type(value).__name__}")


def _list(items: Sequence[Any], path: str) -> str:
    """Items that are always there stand together; each other one is added if its condition holds."""
    sums: list[str] = []
    together: list[str] = []
    for item in items:
        if isinstance(item, Maybe):
            if together:
                sums.append(f"[{', '.join(together)}]")
                together = []
            sums.append(f"({choice(item.condition, f'[{literal(item.value, path)}]', '[]')})")
        else:
            together.append(literal(item, path))
    if together or not sums:
        sums.append(f"[{', '.join(together)}]")
    return " + ".join(sums)


def _structure(value: Mapping[str, Any], path: str) -> str:
    is_map = path.rpartition(".")[2] in _MAPS
    fields = []
    for key, item in value.items():
        name = quoted(key) if is_map else key
        below = f"{path}.{key}"
        if isinstance(item, Maybe):
            found = f"optional.of({literal(item.value, below)})"
            fields.append(f"?{name}: {choice(item.condition, found, 'optional.none()')}")
        else:
            fields.append(f"{name}: {literal(item, below)}")
    return f"{'' if is_map else path}{{{', '.join(fields)}}}"
