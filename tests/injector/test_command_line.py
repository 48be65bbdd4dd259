"""`python -m injector inject`: manifests on standard output, or one clear line and exit 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, annotations: {evenstream.dev/inject: enabled}}
spec: {containers: [{name: a, image: "a:1"}]}
"""


def _run(
    *arguments: str, text: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "injector", *arguments], input=text, capture_output=True, timeout=60, env=env
    )


def test_standard_input_and_a_file_give_the_same(tmp_path: Path):
    path = tmp_path / "pod.yaml"
    path.write_text(POD)
    from_file = _run("inject", "-f", str(path))
    from_input = _run("inject", "-f", "-", text=POD.encode())
    assert from_file.returncode == from_input.returncode == 0
    assert from_file.stdout == from_input.stdout
    assert yaml.safe_load(from_file.stdout)["spec"]["initContainers"][0]["name"] == "evenstream"


def test_json_is_taken_too():
    done = _run("inject", "-f", "-", text=b'{"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}')
    assert yaml.safe_load(done.stdout) == {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}}


@pytest.mark.parametrize(
    "text", ["10:20", "2024-01-31", "1_000", "0x1F", "y", "on", "1e3", ".5", "~", "0o17"]
)
def test_a_quoted_text_that_looks_like_something_else_stays_text(text: str):
    manifest = f"apiVersion: v1\nkind: ConfigMap\ndata:\n  a: '{text}'\n"
    done = _run("inject", "-f", "-", text=manifest.encode())
    assert yaml.safe_load(done.stdout)["data"]["a"] == text


def test_the_sidecar_image_comes_from_flag_environment_or_default(tmp_path: Path):
    def image(*flags: str, **variables: str) -> str:
        done = _run("inject", "-f", "-", *flags, text=POD.encode(), env={**os.environ, **variables})
        return str(yaml.safe_load(done.stdout)["spec"]["initContainers"][0]["image"])

    assert image() == "evenstream-sidecar:dev"
    assert image(EVENSTREAM_SIDECAR_IMAGE="one:1") == "one:1"
    assert image("--sidecar-image", "two:2", EVENSTREAM_SIDECAR_IMAGE="one:1") == "two:2"


@pytest.mark.parametrize(
    ("arguments", "text", "says"),
    [
        ((), b"", "the following arguments are required: COMMAND"),
        (("inject",), b"", "required: -f"),
        (("inject", "-f", "/no/such/file"), b"", "/no/such/file: No such file or directory"),
        (("inject", "-f", "/"), b"", "/: Is a directory"),
        (("inject", "-f", "-"), b"", "standard input: there is no manifest in it"),
        (("inject", "-f", "-"), b"a: [", "standard input: not YAML: line 1"),
        (("inject", "-f", "-"), b"\xff\xfe\xff", "standard input: not UTF-8 text"),
        (("inject", "-f", "-"), b"a: 1", "document 1: not a Kubernetes object: it has no kind"),
        (("inject", "-f", "-"), POD.encode() + b"---\n- 1\n", "document 2: not a Kubernetes object"),
        (("inject", "-f", "-"), b"kind: Deployment\nmetadata: {name: d}", "Deployment d: spec is missing"),
        (("inject", "-f", "-"), b"kind: Pod\nmetadata: []\nspec: 5", "Pod (no name): spec is not a map"),
        (("inject", "-f", "-", "--sidecar-image", "A B"), b"", "'A B' is not allowed; allowed: an image"),
        (("serve", "--port", "0"), b"", "'0' is not allowed; allowed: a port from 1 to 65535"),
        (
            ("serve", "--log-level", "loud"),
            b"",
            "'loud' is not allowed; allowed: debug, info, warning, error",
        ),
        (
            ("serve", "--refresh-seconds", "0"),
            b"",
            "'0' is not allowed; allowed: whole seconds from 1 to 3600",
        ),
        (("serve", "--sidecar-kind", "x"), b"", "'x' is not allowed; allowed: auto, native, plain"),
        (("inject", "-f", "-", "--cluster-domain", "a."), b"", "'a.' is not allowed; allowed: a DNS name"),
        (("serve", "--nonsense"), b"", "unrecognized arguments: --nonsense"),
        (("serve", "--address", "localhost"), b"", "'localhost' is not allowed; allowed: an IP address"),
        (("serve", "--namespace", "A_b"), b"", "'A_b' is not allowed; allowed: a DNS label"),
        (("serve", "--service", "a.b"), b"", "'a.b' is not allowed; allowed: a DNS label"),
        (("serve", "--sidecar-kind", "fat"), b"", "'fat' is not allowed; allowed: "),
        (("serve", "--cluster-domain", "a.b."), b"", "'a.b.' is not allowed; allowed: a DNS name"),
        (("serve", "--log-format", "xml"), b"", "'xml' is not allowed; allowed: text, json"),
        (("eject",), b"", "eject"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: tuple[str, ...], text: bytes, says: str):
    done = _run(*arguments, text=text)
    assert done.returncode == 2
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.count("\n") == 1, message
    assert says in message


def test_an_alias_bomb_is_refused():
    """Aliases that stand for nine times nine times nine things: never written out in full."""
    lines = ["kind: ConfigMap", "a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    done = _run("inject", "-f", "-", text="\n".join(lines).encode())
    assert done.returncode == 2
    assert b"aliases" in done.stderr


@pytest.mark.parametrize("command", [(), ("inject",), ("serve",)], ids=["all", "inject", "serve"])
def test_help_explains_every_option(command: tuple[str, ...]):
    done = _run(*command, "--help", env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "usage: python -m injector" in text
    for line in text.splitlines():
        assert not line.rstrip().endswith("()"), line  # a default that is nothing
    if not command:
        assert "python -m injector inject -f pod.yaml" in text
        assert "Exit codes: 0" in text


def test_serve_without_a_cluster_says_so_once():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBE")}
    done = _run("serve", env={**environment, "HOME": "/nonexistent"})
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "python -m injector: serve: cannot log in to a cluster: "
        "neither a service account's token nor a kubeconfig was found\n"
    )
