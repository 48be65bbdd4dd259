"""What manifests/ put into a cluster, found again by name, and judged."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography import x509

from contract import names
from injector import certs
from injector.cli.lines import Line

NAME: Final = "evenstream-injector"
DNS_NAME: Final = f"{NAME}.{names.SYSTEM_NAMESPACE}.svc"
# One webhook for most namespaces, one for those that enforce Pod Security.
SUFFIX: Final = ".evenstream.dev"
POLICY: Final = "evenstream"
PORT: Final = 8443
SECTION: Final = "Installation"
NOT_CALLED: Final = (
    "look whether the API server may reach the injector's pods on port 8443 (firewalls of managed clusters, "
    f"NetworkPolicies), and at: kubectl -n {names.SYSTEM_NAMESPACE} logs deploy/{NAME}"
)
NOT_RUN: Final = (
    "the API server runs MutatingAdmissionPolicies from 1.36 on, and in 1.34 and 1.35 with the feature gate of that "
    "name and the API admissionregistration.k8s.io/v1beta1 switched on"
)
LOGS: Final = f"kubectl -n {names.SYSTEM_NAMESPACE} logs deploy/{NAME}"
APPLY_AGAIN: Final = "apply the manifests again: kubectl apply -k manifests/"

Json = Mapping[str, Any]


def deployment(found: Json) -> Line:
    """The injector's own pods."""
    wanted = int((found.get("spec") or {}).get("replicas") or 0)
    ready = int((found.get("status") or {}).get("readyReplicas") or 0)
    text = f"{ready} of {wanted} pods ready, {image(found)}"
    if ready == 0:
        do = f"see why: kubectl -n {names.SYSTEM_NAMESPACE} describe pods; until then pods start without the sidecar"
        return Line(SECTION, "injector", "failed", text, do)
    if ready < wanted:
        do = f"see why: kubectl -n {names.SYSTEM_NAMESPACE} describe pods"
        return Line(SECTION, "injector", "warning", text, do)
    return Line(SECTION, "injector", "ok", text)


def image(found: Json) -> str:
    spec = ((found.get("spec") or {}).get("template") or {}).get("spec") or {}
    containers = spec.get("containers") or [{}]
    return str(containers[0].get("image") or "no image")


def hooks(configuration: Json | None) -> list[Json]:
    """Our webhooks in the configuration."""
    found = (configuration or {}).get("webhooks") or []
    return [hook for hook in found if str(hook.get("name")).endswith(SUFFIX)]


def webhook(configuration: Json | None) -> Iterable[Line]:
    """The MutatingWebhookConfiguration: does it call us, for the right pods, and can it do no harm?"""
    ours = hooks(configuration)
    if not ours:
        what = f"MutatingWebhookConfiguration {NAME} has no webhook *{SUFFIX}"
        yield Line(SECTION, "webhook", "failed", what, APPLY_AGAIN)
        return
    named = ", ".join(str(hook["name"]) for hook in ours)
    if all((hook.get("clientConfig") or {}).get("caBundle") for hook in ours):
        yield Line(SECTION, "webhook", "ok", f"{NAME} trusts a CA for {named}")
    else:
        do = f"the injector puts it there when it starts: {LOGS}"
        text = f"{NAME} has no caBundle, so no call can succeed"
        yield Line(SECTION, "webhook", "failed", text, do)
    if all(_asks_only(hook) for hook in ours):
        yield Line(SECTION, "matchConditions", "ok", "only pods that ask reach the injector")
    else:
        text = "not in force: every pod's creation waits for the injector"
        do = "the API server dropped them (older than 1.28) or somebody did; " + APPLY_AGAIN
        yield Line(SECTION, "matchConditions", "failed", text, do)
    if all(hook.get("failurePolicy") == "Ignore" for hook in ours):
        text = "Ignore: a pod starts without the sidecar if the injector is down"
        yield Line(SECTION, "failurePolicy", "ok", text)
    else:
        text = "not Ignore: a pod that asks cannot start while the injector is down"
        yield Line(
            SECTION, "failurePolicy", "warning", text, "Ignore is what the manifests have; " + APPLY_AGAIN
        )


def _asks_only(hook: Json) -> bool:
    conditions = hook.get("matchConditions") or []
    return any(names.INJECT_ANNOTATION in str(condition.get("expression")) for condition in conditions)


def authority(configuration: Json | None) -> str:
    """The PEM that the API server trusts for our webhooks, or ""."""
    for hook in hooks(configuration):
        bundle = (hook.get("clientConfig") or {}).get("caBundle")
        if bundle:
            return base64.b64decode(bundle).decode("ascii", "replace")
    return ""


def certificate(der: bytes, now: datetime.datetime) -> Line:
    """The serving certificate that a client was shown, and that verified."""
    until = x509.load_der_x509_certificate(der).not_valid_after_utc
    days = (until - now) / datetime.timedelta(days=1)
    text = f"verified against the webhook's CA, {days:.0f} days left (until {until:%Y-%m-%d})"
    # A day's grace: the injector looks once a minute, and its clock may differ from ours.
    if days > certs.RENEW_BEFORE / datetime.timedelta(days=1) - 1:
        return Line(SECTION, "certificate", "ok", text)
    do = f"it should have been renewed; see why: kubectl -n {names.SYSTEM_NAMESPACE} logs deploy/{NAME}"
    return Line(SECTION, "certificate", "warning", text, do)


class Caller(NamedTuple):
    """What has pods injected: a webhook of ours, or the policy."""

    selector: Json  # a LabelSelector of namespaces
    since: str  # when it was put into the cluster, RFC 3339


def callers(configuration: Json | None, found: Json | None) -> list[Caller]:
    """Of the webhook configuration and of the MutatingAdmissionPolicy, as far as they are there."""
    made = [
        Caller(hook.get("namespaceSelector") or {}, _since(configuration or {}))
        for hook in hooks(configuration)
    ]
    if found is not None:
        constraints = (found.get("spec") or {}).get("matchConstraints") or {}
        made.append(Caller(constraints.get("namespaceSelector") or {}, _since(found)))
    return made


def _since(thing: Json) -> str:
    return str((thing.get("metadata") or {}).get("creationTimestamp") or "")


def policy(found: Json, binding: Json | None) -> Line:
    """Injection without a server: the policy counts only with its binding."""
    kind = "MutatingAdmissionPolicy"
    if binding is None:
        text = f"{kind} {POLICY} has no {kind}Binding {POLICY}, so it does nothing"
        return Line(SECTION, "policy", "failed", text, APPLY_AGAIN)
    conditions = (found.get("spec") or {}).get("matchConditions") or []
    return Line(SECTION, "policy", "ok", f"{kind} {POLICY} is bound, with {len(conditions)} matchConditions")


def excluded(known: Sequence[Caller], namespace: str, labels: Mapping[str, str]) -> str:
    """Why pods of a namespace with these labels are never looked at, or ""."""
    every = {"kubernetes.io/metadata.name": namespace, **labels}
    reasons = [_selects(caller.selector, every) for caller in known]
    return reasons[0] if reasons and all(reasons) else ""


def _selects(selector: Json, labels: Mapping[str, str]) -> str:
    """ "" if the selector selects a namespace with these labels, else what is in the way."""
    for key, text in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != text:
            return f"the namespaceSelector wants the label {key}={text}"
    for wanted in selector.get("matchExpressions") or []:
        if not _matches(wanted, labels):
            return f"the namespaceSelector leaves it out ({_expression(wanted)})"
    return ""


def _matches(wanted: Json, labels: Mapping[str, str]) -> bool:
    """A LabelSelectorRequirement, as apimachinery has it: NotIn holds for a label that is not there."""
    key, values = str(wanted.get("key")), wanted.get("values") or []
    operator = wanted.get("operator")
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return key not in labels or labels[key] not in values
    return (key in labels) == (operator == "Exists")


def _expression(wanted: Json) -> str:
    values: Sequence[str] = wanted.get("values") or []
    return f"{wanted.get('key')} {wanted.get('operator')} {', '.join(values)}".strip()
