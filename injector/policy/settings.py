"""The settings table's parsers as CEL conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from contract import values
from contract.settings import BY_ANNOTATION, Setting
from injector.admission import messages
from injector.admission.decision import MAX_SHOWN_VALUE
from injector.policy.cel import Cel, choice, filled, in_quotes, quoted

# Nothing that any parser takes: it says what it would take.
_NEVER: Final = "\0"


def variable(name: str) -> str:
    """The setting's text: the annotation's, or the default."""
    return "variables." + name.replace("-", "_")


def items(text: str) -> Cel:
    """A comma-separated list as the parsers read it."""
    return choice(f'{text}.trim() == ""', "[]", f'{text}.split(",").map(item, item.trim())')


def variables() -> list[tuple[str, Cel]]:
    """Each annotation's text by its setting's name, and one that says what is wrong with them, or ""."""
    found = [
        (setting.name.replace("-", "_"), _text(setting.annotation, setting.default))
        for setting in BY_ANNOTATION.values()
    ]
    return [*found, ("wrong_annotation", _wrong())]


def _text(annotation: str, default: str) -> Cel:
    return Cel(f"variables.annotations[?{quoted(annotation)}].orValue({quoted(default)})")


def _wrong() -> Cel:
    known = ", ".join(sorted(BY_ANNOTATION))
    unknown = filled(
        messages.NOT_ALLOWED,
        annotation=Cel("variables.unknown_annotations[0]"),
        value=_shown("variables.annotations[variables.unknown_annotations[0]]"),
        allowed=f"known annotations: {known}",
    )
    found = Cel('""')
    for setting in reversed(list(BY_ANNOTATION.values())):
        said = filled(
            messages.NOT_ALLOWED,
            annotation=setting.annotation,
            value=_shown(variable(setting.name)),
            allowed=_allowed(setting),
        )
        found = choice(f"!({_holds(setting)})", said, found)
    return choice("variables.unknown_annotations.size() > 0", unknown, found)


def _shown(text: str) -> Cel:
    return in_quotes(
        f'({text}.size() > {MAX_SHOWN_VALUE} ? {text}.substring(0, {MAX_SHOWN_VALUE}) + "..." : {text})'
    )


def _allowed(setting: Setting) -> Cel:
    """What the parser says of a text it does not take; of a list that is too long it says something else."""
    allowed, shorter = (_said(setting, text) for text in (_NEVER, "," * values.MAX_LIST_ITEMS))
    if shorter == allowed:
        return quoted(allowed)
    return choice(f"!{_short(variable(setting.name))}", quoted(shorter), quoted(allowed))


def _said(setting: Setting, text: str) -> str:
    try:
        setting.parse(text)
    except values.BadValueError as error:
        return str(error)
    raise AssertionError(f"{setting.name} takes {text!r}")


def _short(text: str) -> str:
    return f'({text}.split(",").size() <= {values.MAX_LIST_ITEMS})'


def _holds(setting: Setting) -> Cel:
    text = variable(setting.name)
    parse: Any = setting.parse
    if isinstance(parse, values.OneOf):
        return Cel(f"{text} in [{', '.join(map(quoted, parse.choices))}]")
    if parse not in _PARSERS:
        raise NotImplementedError(
            f"{setting.name}: this parser has no condition in CEL yet; it belongs into _PARSERS"
        )
    holds = _PARSERS[parse](text)
    return holds if setting.default else Cel(f'{text} == "" || ({holds})')


def _matches(text: str, pattern: str) -> str:
    return f"{text}.matches({quoted(f'^({pattern})$')})"


def port_holds(text: str) -> str:
    return f"({_matches(text, '[0-9]{1,5}')} && int({text}) >= 1 && int({text}) <= {values.MAX_PORT})"


def _every(text: str, holds: str) -> Cel:
    return Cel(f"{_short(text)} && ({items(text)}).all(item, {holds})")


def _services(text: str) -> Cel:
    named = _matches("item", rf"{values.LABEL}(\.{values.LABEL})?:[0-9]{{1,5}}")
    port = port_holds('item.split(":")[1]')
    return _every(text, f"{named} && {port}")


def _cidrs(text: str) -> Cel:
    # Of a network in Python's other spelling, with a netmask, nothing is known here; it is refused.
    return _every(text, "isIP(item) || (isCIDR(item) && cidr(item) == cidr(item).masked())")


def _ejection(text: str) -> Cel:
    limits = values.EJECTION_LIMITS
    names = f'({items(text)}).map(item, item.split("=")[0])'
    figure = " || ".join(
        f"""({_matches("item", f"{name}=[0-9]{{1,4}}")} && int(item.split("=")[1]) >= 1 && """
        f"""int(item.split("=")[1]) <= {most})"""
        for name, most in limits.items()
    )
    # No item twice, so no more items than there are names.
    few = f'{text}.split(",").size() <= {len(limits)}'
    once = f"{names}.all(name, {names}.filter(other, other == name).size() == 1)"
    return Cel(
        f'{text} in ["off", "on"] || '
        f'({text}.trim() != "" && {few} && ({items(text)}).all(item, {figure}) && {once})'
    )


_PARSERS: Final[Mapping[Callable[[str], Any], Callable[[str], Cel]]] = {
    values.services: _services,
    values.ports: lambda text: _every(text, port_holds("item")),
    values.cidrs: _cidrs,
    values.outlier_ejection: _ejection,
    values.quantity: lambda text: Cel(_matches(text, values.QUANTITY)),
    values.image: lambda text: Cel(_matches(text, values.IMAGE)),
}
