"""Questions about one pod, as the API gives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from contract import names

Json = dict[str, Any]


def status_of(pod: Mapping[str, Any]) -> Json | None:
    """The injector's record on a pod, or None if it is not injected."""
    text = ((pod.get("metadata") or {}).get("annotations") or {}).get(names.STATUS_ANNOTATION)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def asks(pod: Mapping[str, Any]) -> bool:
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    done = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return annotations.get(names.INJECT_ANNOTATION, "disabled") != "disabled" and not done


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def container_state(pod: Mapping[str, Any]) -> list[dict[str, str]]:
    """Our containers in the pod, and how they are: {"name": "evenstream", "state": "running, ready"}."""
    status = pod.get("status") or {}
    known = {
        each["name"]: each
        for key in ("initContainerStatuses", "containerStatuses")
        for each in status.get(key) or ()
    }
    return [
        {"name": name, "state": _state(known[name])}
        for name in (names.SIDECAR_CONTAINER, names.INIT_CONTAINER)
        if name in known
    ]


def _state(container: Mapping[str, Any]) -> str:
    state, detail = next(iter((container.get("state") or {"unknown": {}}).items()))
    parts = [state]
    if state == "running":
        parts.append("ready" if container.get("ready") else "not ready")
    if state == "terminated":
        parts.append(f"exit code {detail.get('exitCode')}")
    if detail.get("reason"):
        parts.append(str(detail["reason"]))
    if detail.get("message"):
        parts.append(" ".join(str(detail["message"]).split()))
    restarts = container.get("restartCount") or 0
    if restarts:
        last = ((container.get("lastState") or {}).get("terminated") or {}).get("reason") or "unknown"
        parts.append(f"{restarts} restarts, the last for {last}")
    return ", ".join(parts)


def is_running(pod: Mapping[str, Any]) -> bool:
    """Its containers run, and it is not being ended."""
    ends = (pod.get("metadata") or {}).get("deletionTimestamp")
    return not ends and (pod.get("status") or {}).get("phase") == "Running"
