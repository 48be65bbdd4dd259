"""Files of manifests: read as kubectl reads them, their pods changed, and written again.

`python -m injector inject` and the `evenstream` commands share this.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from injector.admission.decision import BadPodError, Options, decide, inject
from injector.admission.workloads import BadManifestError, Change, Warn, Where, transform

# What kubectl would still send to an API server (3 MiB an object), for a file of several.
MAX_BYTES: Final = 10 * 1024 * 1024
# YAML aliases are written out, and a few nested ones stand for millions of values ("billion laughs"). No file
# of MAX_BYTES that says what it means has as many.
MAX_VALUES: Final = 2_000_000

Json = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 10:20 as 620 and 2020-01-01 as a date; kubectl reads both as text, and so must we."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _: Any) -> bool:
        return True


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    plain = {
        "tag:yaml.org,2002:int": re.compile(
            r"^(?:[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?[1-9][0-9_]*|[-+]?0x[0-9a-fA-F_]+|0)$"
        ),
        "tag:yaml.org,2002:float": re.compile(
            r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
            r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
    }
    left_out = "tag:yaml.org,2002:timestamp"
    return {
        first: [(tag, plain.get(tag, pattern)) for tag, pattern in pairs if tag != left_out]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.yaml_implicit_resolvers = _resolvers()


def inject_text(data: bytes, options: Options, namespace: str = "") -> tuple[str, list[str]]:
    """(manifests, warnings). Documents without a pod that asks come out as they went in but for their
    layout. `namespace`: of objects that name none, "" if it is not known. Raises BadManifestError naming the
    document."""
    warnings: list[str] = []

    def change(where: Where, pod: Json) -> Json:
        try:
            decision = decide(pod, options, where.namespace or namespace)
        except BadPodError as error:
            raise BadManifestError(f"{where}: {error}") from None
        warnings.extend(f"{where}: {warning}" for warning in decision.warnings)
        return inject(pod, decision)

    def warn(where: Where, text: str) -> None:
        warnings.append(f"{where}: evenstream: {text}")

    return dump(each_pod(parse(data), change, warn)), warnings


def parse(data: bytes) -> list[Any]:
    """The documents of a file. Raises BadManifestError."""
    if len(data) > MAX_BYTES:
        raise BadManifestError(f"allowed: at most {MAX_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadManifestError("not UTF-8 text") from None
    documents = _documents(text)
    if not documents:
        raise BadManifestError("there is no manifest in it")
    return documents


def each_pod(documents: list[Any], change: Change, warn: Warn) -> list[Any]:
    """The documents with `change` made to each pod and pod template. Raises BadManifestError naming the document."""
    changed = []
    for number, document in enumerate(documents, 1):
        try:
            changed.append(transform(document, change, warn))
        except BadManifestError as error:
            raise BadManifestError(f"document {number}: {error}") from None
    return changed


def _documents(text: str) -> list[Any]:
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise BadManifestError(f"not YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadManifestError(f"not YAML: {' '.join(str(error).split())}") from None
    if _too_many(documents):
        raise BadManifestError(f"allowed: at most {MAX_VALUES} values once its aliases are written out")
    return documents


def _too_many(documents: list[Any]) -> bool:
    seen, waiting = 0, list(documents)
    while waiting and seen <= MAX_VALUES:
        value = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return seen > MAX_VALUES


def dump(documents: list[Any]) -> str:
    """As YAML, without aliases."""
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return str(text)
