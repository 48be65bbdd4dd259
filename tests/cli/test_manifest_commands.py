"""inject, uninject, diff and validate: files in, files and exit codes out."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import jsonpatch
import pytest
import yaml
from cli_run import evenstream
from hypothesis import given
from hypothesis import strategies as st

from injector import manifest
from injector.admission.decision import Options, decide
from injector.admission.decision import inject as injected
from injector.admission.removal import uninject

pytestmark = pytest.mark.once

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.stem for path in (GOLDEN / "in").glob("*.yaml"))
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, annotations: {evenstream.dev/inject: enabled}}
spec: {containers: [{name: a, image: "a:1"}]}
"""
BAD = POD.replace("enabled", "yes please")
PLAIN = POD.replace("evenstream.dev/inject: enabled", "owner: me")


def test_inject_is_what_the_webhooks_own_command_prints():
    ours = evenstream("inject", "-f", "-", text=POD)
    other = subprocess.run(
        [sys.executable, "-m", "injector", "inject", "-f", "-"], input=POD, capture_output=True, text=True
    )
    assert (ours.code, ours.out, ours.err) == (0, other.stdout, other.stderr)


def test_inject_gives_json_too():
    one = evenstream("inject", "-f", "-", "-o", "json", text=POD).json
    assert [each["name"] for each in one["spec"]["initContainers"]] == ["evenstream", "evenstream-init"]
    two = evenstream("inject", "-f", "-", "-o", "json", text=POD + "---" + PLAIN).json
    assert two["kind"] == "List"
    assert len(two["items"]) == 2


def test_inject_takes_what_the_installation_would_decide():
    """The options of `python -m injector inject`, with the same effect."""
    pod = POD.replace(
        "inject: enabled",
        "inject: enabled, evenstream.dev/capture: hosts, evenstream.dev/services: 'greeter:50051'",
    )
    options = [
        "-n",
        "shop",
        "--sidecar-kind",
        "plain",
        "--cluster-domain",
        "example.org",
        "--sidecar-image",
        "mine:1",
    ]
    ours = evenstream("inject", "-f", "-", *options, text=pod)
    command = [sys.executable, "-m", "injector", "inject", "-f", "-", *options]
    other = subprocess.run(command, input=pod, capture_output=True, text=True)
    assert (ours.code, ours.out) == (0, other.stdout)
    for text in ("greeter.shop.svc.example.org", "mine:1", "postStart"):
        assert text in ours.out


def test_inject_warns_of_a_pod_it_leaves_as_it_is():
    done = evenstream("inject", "-f", "-", text=BAD)
    assert done.code == 0
    assert yaml.safe_load(done.out) == yaml.safe_load(BAD)
    assert done.err.startswith(
        "standard input: Pod p: warning: annotation evenstream.dev/inject: 'yes please'"
    )


@pytest.mark.parametrize("case", CASES)
def test_uninject_gives_back_what_was_injected(case: str):
    before = manifest.parse((GOLDEN / "in" / f"{case}.yaml").read_bytes())
    done = evenstream("uninject", "--keep-annotation", "-f", str(GOLDEN / "out" / f"{case}.yaml"))
    assert done.code == 0, done.err
    assert manifest.parse(done.out.encode()) == before


def test_uninject_says_no_to_the_webhook():
    made = evenstream("uninject", "-f", "-", text=evenstream("inject", "-f", "-", text=POD).out)
    pod = yaml.safe_load(made.out)
    assert pod["metadata"]["annotations"] == {"evenstream.dev/inject": "disabled"}
    assert pod["spec"] == yaml.safe_load(POD)["spec"]
    assert yaml.safe_load(evenstream("uninject", "-f", "-", text=PLAIN).out) == yaml.safe_load(PLAIN)


_names = st.sampled_from(["a", "b", "c", "evenstream-like"])
_containers = st.lists(_names, unique=True, max_size=3).map(
    lambda names: [{"name": name, "image": f"{name}:1"} for name in names]
)


@given(
    containers=_containers.filter(bool),
    init=_containers,
    volumes=st.lists(_names, unique=True, max_size=2),
    capture=st.sampled_from(["iptables", "none"]),
)
def test_uninject_undoes_inject(containers, init, volumes, capture):
    spec = {"containers": containers}
    if init:
        spec["initContainers"] = init
    if volumes:
        spec["volumes"] = [{"name": name, "emptyDir": {}} for name in volumes]
    annotations = {"evenstream.dev/inject": "enabled", "evenstream.dev/capture": capture, "owner": "me"}
    pod = {"metadata": {"annotations": annotations}, "spec": spec}
    decision = decide(pod, Options())
    assert decision.patch
    assert uninject(injected(pod, decision), disable=False) == pod


def test_diff_shows_what_is_added_and_ends_with_1():
    done = evenstream("diff", "-f", "-", text=POD)
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[:2] == ["--- standard input", "+++ standard input (injected)"]
    assert any(line.startswith("+  - name: evenstream") for line in lines)
    assert not [line for line in lines[2:] if line.startswith("-")], "nothing is taken away"
    assert evenstream("diff", "-f", "-", text=PLAIN)[:2] == (0, "")


def test_diff_gives_the_patch_that_the_webhook_would_send():
    done = evenstream("diff", "-f", "-", "-o", "json", text=POD)
    assert done.code == 1
    (one,) = done.json
    assert (one["file"], one["where"]) == ("standard input", "Pod p")
    after = jsonpatch.apply_patch(yaml.safe_load(POD), one["patch"])
    assert after == yaml.safe_load(evenstream("inject", "-f", "-", text=POD).out)


def test_validate_passes_what_is_right():
    done = evenstream("validate", "-f", "-", text=POD + "---" + PLAIN)
    assert done.code == 0
    assert done.out == "1 file; pods and templates: 1 with the sidecar, 0 refused, 1 that did not ask\n"


def test_validate_names_file_workload_and_what_is_allowed(tmp_path: Path):
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "bad.yaml").write_text(BAD)
    (tmp_path / "notes.txt").write_text("not a manifest")
    (tmp_path / "good.yml").write_text(POD)
    assert evenstream("validate", "-f", str(tmp_path)).code == 0, "folders in it are not read"
    done = evenstream("validate", "-R", "-f", str(tmp_path))
    assert done.code == 1
    first, last = done.out.splitlines()
    assert first == (
        f"{tmp_path}/deploy/bad.yaml: Pod p: error: annotation evenstream.dev/inject: 'yes please' is not "
        "allowed; allowed: enabled, disabled"
    )
    assert last.startswith("2 files; ")


def test_validate_gives_json_for_ci():
    done = evenstream("validate", "-o", "json", "-f", "-", text=BAD)
    assert done.code == 1
    assert done.json["pods"] == {"sidecar": 0, "did_not_ask": 0, "refused": 1}
    (finding,) = done.json["findings"]
    assert finding["level"] == "error"
    assert finding["where"] == "Pod p"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "kind: Deployment\nmetadata: {name: d, annotations: {evenstream.dev/inject: enabled}}\n"
            "spec: {template: {spec: {containers: []}}}",
            "warning: evenstream.dev/inject does nothing here; it belongs into spec.template.metadata",
        ),
        (
            "kind: Pod\nmetadata: {name: p, annotations: {evenstream.dev/capture: none}}\nspec: {}",
            'warning: annotation evenstream.dev/capture does nothing without evenstream.dev/inject: "enabled"',
        ),
    ],
)
def test_validate_warns_of_annotations_without_effect(text: str, says: str):
    done = evenstream("validate", "-f", "-", text=text)
    assert done.code == 0
    assert says in done.out
    assert evenstream("validate", "--strict", "-f", "-", text=text).code == 1


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        (("inject",), "", "evenstream inject: missing option '-f'"),
        (("inject", "-f", "/no/such/file"), "", "evenstream: /no/such/file: No such file or directory"),
        (("validate", "-f", "-"), "a: [", "evenstream: standard input: not YAML: line 1"),
        (("diff", "-f", "-"), "a: 1", "evenstream: standard input: document 1: not a Kubernetes object"),
        (("inject", "-f", "-", "-o", "xml"), "", "'xml' is not one of 'yaml', 'json'"),
        (("inject", "-f", "-", "--sidecar-image", "A B"), "", "'A B' is not allowed; allowed: an image"),
        (("unject",), "", "no such command 'unject'"),
        (("--colour",), "", "no such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: tuple[str, ...], text: str, says: str):
    done = evenstream(*arguments, text=text)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1, done.err
    assert says in done.err


def test_a_folder_without_manifests_is_said(tmp_path: Path):
    done = evenstream("validate", "-f", str(tmp_path))
    assert done.code == 2
    assert "a folder without .yaml, .yml, .json files" in done.err


@pytest.mark.parametrize(
    "command", [(), ("inject",), ("uninject",), ("diff",), ("validate",), ("completion",)]
)
def test_help_teaches(command: tuple[str, ...]):
    done = evenstream(*command, "--help")
    assert done.code == 0
    assert ("Examples:" if command else "Start with:") in done.out
    assert "Exit codes:" in done.out or command == ("completion",)


def test_without_arguments_it_helps():
    done = evenstream()
    assert done.code == 2
    assert "Start with:" in done.err


def test_colours_are_for_terminals():
    plain = evenstream("diff", "-f", "-", text=POD)
    assert "\x1b[" not in plain.out
    assert "\x1b[32m+" in evenstream("--color", "always", "diff", "-f", "-", text=POD).out
    assert "\x1b[3" not in _on_a_terminal({**os.environ, "NO_COLOR": "1", "TERM": "xterm"})
    assert "\x1b[3" in _on_a_terminal({**os.environ, "TERM": "xterm"})


def _on_a_terminal(environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "injector.cli", "diff", "-f", str(GOLDEN / "in" / "pod.yaml")],
        stdout=theirs,
        env=environment,
    )
    os.close(theirs)
    printed = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not read:
            break
        printed += read
    os.close(ours)
    assert process.wait(60) == 1
    return printed.decode()


@pytest.mark.parametrize("command", ["inject", "diff"])
def test_a_reader_that_has_enough_is_no_error(command: str):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "injector.cli", command, "-f", str(GOLDEN / "in" / "pod.yaml")],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_completion_scripts():
    assert "_evenstream_completion" in evenstream("completion", "bash").out
    found = evenstream(_EVENSTREAM_COMPLETE="bash_complete", COMP_WORDS="evenstream val", COMP_CWORD="1")
    assert found.out.split() == ["plain,validate"]


def test_completion_for_kubectl():
    code = "import sys; sys.argv[1:] = ['diff', '--out']\n"
    code += "from injector.cli.__main__ import complete_for_kubectl as f; f()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["--output", ":4"]


def test_without_its_libraries_it_says_what_to_install():
    code = "import sys; sys.modules['click'] = None; sys.argv[1:] = []\n"
    code += "from injector.cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "evenstream: click is not installed; install the command line with: pip install 'evenstream[cli]'\n"
    )
