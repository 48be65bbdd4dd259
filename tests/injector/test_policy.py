"""The generated policies, as text."""

import json
import subprocess
import sys
from typing import Any

import pytest
from golden_pods import golden_pods
from real_apiserver import ROOT

from contract import settings
from contract.settings import Setting
from contract.values import OneOf, seconds
from injector.admission.decision import Options, decide
from injector.policy import settings as texts
from injector.policy.objects import objects


def test_the_overlay_has_what_the_generator_prints():
    """After a wanted change: python -m injector policy > manifests/overlays/no-server/policy.yaml"""
    done = subprocess.run(
        [sys.executable, "-m", "injector", "policy"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "manifests" / "overlays" / "no-server" / "policy.yaml").read_text()


def test_no_policy_is_longer_than_an_api_server_is_patient_with():
    """Of 1.5 MiB that etcd takes of one object, and 256 KiB that kubectl keeps of it in an annotation."""
    for thing in objects(Options(), "v1beta1"):
        assert len(json.dumps(thing)) < 64 * 1024


def test_plain_sidecars_are_refused():
    command = [sys.executable, "-m", "injector", "policy", "--sidecar-kind", "plain"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("policy: --sidecar-kind plain is not allowed; allowed: auto, native\n")


# Whoever adds a setting to the contract meets these ---------------------------------------------------------


def test_a_setting_that_the_policy_cannot_judge_is_an_error(monkeypatch: pytest.MonkeyPatch):
    new = Setting("retry", "evenstream.dev/retry", "", "", seconds, "3", "Seconds between retries.")
    monkeypatch.setattr(texts, "BY_ANNOTATION", {**settings.BY_ANNOTATION, new.annotation: new})
    with pytest.raises(NotImplementedError, match=r"^retry: "):
        texts.variables()


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_judged_or_written_by_the_policy(setting: Setting):
    """By its annotation, and in the sidecar's environment."""
    policy = json.dumps(objects(Options(), "v1beta1")[0])
    assert not setting.annotation or setting.annotation in policy
    assert not setting.env or f'name: \\"{setting.env}\\"' in policy


def _text_of_its_own(setting: Setting, pod: dict[str, Any]) -> bool:
    text = pod["metadata"]["annotations"].get(setting.annotation)
    only_one = isinstance(setting.parse, OneOf) and len(setting.parse.choices) == 1
    return text is not None and (only_one or text != setting.default)


@pytest.mark.parametrize("setting", settings.BY_ANNOTATION.values(), ids=lambda setting: setting.name)
def test_every_annotation_is_in_a_golden_pod_that_is_injected(setting: Setting):
    """test_policy_apiserver.py sends them through policy and webhook both: what the policy does otherwise with
    the new setting is seen there."""
    injected = [pod for _, pod in golden_pods() if decide(pod, Options(), "shop").patch]
    assert any(_text_of_its_own(setting, pod) for pod in injected)
