"""AdmissionReviews (admission.k8s.io/v1) as bytes: what is one, and what is too much to be taken apart."""

from __future__ import annotations

import json
import re
from typing import Any, Final

VERSION: Final = "admission.k8s.io/v1"
# Objects, lists and their members in one review. A value in memory has some 400 bytes and is gone over several
# times: as many as this take 50 MB and 0.4 s. Pods with thousands are rare; a review of 10 MB made of {} has
# millions, for which whoever may create pods could stop everybody's injection.
MAX_VALUES: Final = 100_000

# The API server writes request.uid ahead of the objects, which have one too.
_UID: Final = re.compile(rb'"uid"\s*:\s*"([0-9A-Za-z-]{1,64})"')
# Possessive: a quantifier that may go back remembers each step of a long string.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

Json = dict[str, Any]


class BadReviewError(ValueError):
    """Not an AdmissionReview of a pod's creation; the text says what is missing."""


def too_many_values(body: bytes) -> bool:
    """Whether this JSON has more than MAX_VALUES values, found without making any."""
    if _marks(body) <= MAX_VALUES:
        return False
    # What stands in strings does not count.
    seen, end = 0, 0
    for string in _STRING.finditer(body):
        seen += _marks(body[end : string.start()])
        end = string.end()
        if seen > MAX_VALUES:
            return True
    return seen + _marks(body[end:]) > MAX_VALUES


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


def parse(body: bytes) -> Json:
    """The AdmissionReview (admission.k8s.io/v1) in a request's body. Raises BadReviewError."""
    try:
        review = json.loads(body)
    except (ValueError, RecursionError):
        raise BadReviewError("the body is not JSON") from None
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise BadReviewError("the body is not an AdmissionReview")
    if review.get("apiVersion") != VERSION:
        raise BadReviewError(f"allowed: apiVersion {VERSION}")
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str) or not request["uid"]:
        raise BadReviewError("request.uid is missing")
    for key in ("object", "resource", "userInfo"):
        if not isinstance(request.get(key), dict):
            raise BadReviewError(f"request.{key} is missing")
    if not isinstance(request.get("operation"), str):
        raise BadReviewError("request.operation is missing")
    return review


def uid(body: bytes) -> str:
    """The review's uid, found without taking it apart, or ""."""
    found = _UID.search(body)
    return found[1].decode() if found else ""


def answer(response: Json) -> Json:
    """The AdmissionReview that carries a response."""
    return {"apiVersion": VERSION, "kind": "AdmissionReview", "response": response}
