"""`python -m sidecar` with what a person may type: help that teaches, and one clear line for each mistake."""

from __future__ import annotations

import re
import socket

import pytest
from freeports import free_port
from sidecar_program import run

from contract import settings

pytestmark = pytest.mark.once

# For each setting something a person might well write, and what the answer must name.
BAD: dict[str, list[tuple[str, str]]] = {
    "services": [
        ("greeter", "NAME:PORT"),
        ("greeter:http", "NAME:PORT"),
        ("greeter.default.svc.example.com:50051", "NAME:PORT"),
        ("greeter:50051;orders:7000", "separated by commas"),
        ("greeter:0", "NAME:PORT"),
    ],
    "policy": [("round_robin", "least-open-streams"), ("", "least-open-streams")],
    "log-level": [("verbose", "debug, info, warning, error"), ("INFO", "debug, info, warning, error")],
    "log-format": [("xml", "text, json")],
    "source": [
        ("file", "file:PATH"),
        ("file:", "file:PATH"),
        ("dns", "kubernetes"),
        ("kubernetes:x", "file:"),
    ],
    "outlier-ejection": [
        ("yes", "off, on"),
        ("failures=0", "failures up to 1000"),
        ("share=95", "share up to 90"),
    ],
    "drain-timeout": [("0", "whole seconds from 1"), ("30s", "whole seconds"), ("1.5", "whole seconds")],
    "state-dir": [("state", "absolute path")],
    "listen": [
        ("127.0.0.1:7000", "ADDRESS:PORT=SERVICE.NAMESPACE:PORT"),
        ("localhost:7000=greeter:50051", "ADDRESS:PORT=SERVICE.NAMESPACE:PORT"),
        ("127.0.0.1:70000=greeter:50051", "ADDRESS:PORT=SERVICE.NAMESPACE:PORT"),
        ("127.0.0.1:7000=Greeter:50051", "ADDRESS:PORT=SERVICE.NAMESPACE:PORT"),
    ],
    "capture": [("0", "1 to 65535"), ("65536", "1 to 65535"), ("on", "1 to 65535")],
    "admin": [("15020", "ADDRESS:PORT"), ("localhost:15020", "ADDRESS:PORT"), (":15020", "ADDRESS:PORT")],
    "namespace": [("My_Namespace", "DNS label"), ("a" * 64, "DNS label"), ("shop.", "DNS label")],
}


def refusal(*arguments: str, **variables: str) -> str:
    """The one line of a start that is refused as a mistake of whoever typed it."""
    done = run(*arguments, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("evenstream-sidecar: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_every_setting_has_a_bad_value_below() -> None:
    assert set(BAD) == {setting.name for setting in settings.sidecar_settings()}


@pytest.mark.parametrize(
    ("name", "text", "allowed"), [(n, t, a) for n, pairs in BAD.items() for t, a in pairs]
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, text: str, allowed: str) -> None:
    flag, variable = settings.BY_NAME[name].flag, settings.BY_NAME[name].env
    said = refusal(f"{flag}={text}")
    assert f"{flag}: {text!r} is not allowed; allowed: " in said
    assert allowed in said
    if text:  # an empty variable is one that is not set
        assert f"{variable}: {text!r} is not allowed; allowed: " in refusal(**{variable: text})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--log-levle", "debug"], "unrecognized arguments: --log-levle"),
        (["--log", "debug"], "unrecognized arguments: --log debug"),  # no abbreviations: they break later
        (["serve"], "unrecognized arguments: serve"),
        (["--admin"], "argument --admin: expected one argument"),
        (["--policy=a", "--policy=b"], "--policy is given 2 times; allowed: once"),
    ],
)
def test_a_mistyped_command_says_where_to_look(arguments: list[str], said: str) -> None:
    line = refusal(*arguments)
    assert said in line
    assert line.endswith("see python -m sidecar --help\n")


def test_of_several_listeners_the_bad_one_is_named() -> None:
    said = refusal("--listen", "127.0.0.1:7000=greeter:50051", "--listen", "127.0.0.1:7001")
    assert "--listen: '127.0.0.1:7001' is not allowed" in said


def test_outside_a_pod_the_kubernetes_source_says_what_is_missing() -> None:
    said = refusal("--admin", f"127.0.0.1:{free_port()}")
    assert (
        "source kubernetes: KUBERNETES_SERVICE_HOST='' and KUBERNETES_SERVICE_PORT='' name no API server"
        in said
    )
    assert "--source file:PATH" in said


def test_a_build_that_does_not_exist_is_refused() -> None:
    said = refusal("--source=file:/x", EVENSTREAM_BUILD="fast")
    assert "EVENSTREAM_BUILD: 'fast' is not allowed; allowed: compiled, interpreted" in said


@pytest.mark.parametrize("what", ["admin", "listen", "capture"])
def test_a_port_in_use_is_one_line_and_exit_code_1(what: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        value = {
            "admin": f"127.0.0.1:{port}",
            "listen": f"127.0.0.1:{port}=greeter.default:50051",
            "capture": str(port),
        }[what]
        admin = [] if what == "admin" else ["--admin", f"127.0.0.1:{free_port()}"]
        done = run("--source=file:/no/such/file", f"--{what}", value, *admin)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert (
        done.stderr == f"evenstream-sidecar: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )


def test_an_address_of_another_machine_is_one_line_and_exit_code_1() -> None:
    done = run("--source=file:/x", f"--listen=192.0.2.1:{free_port()}=greeter.default:50051")
    assert done.returncode == 1
    assert re.fullmatch(
        r"evenstream-sidecar: cannot listen on 192\.0\.2\.1 port \d+: Cannot assign requested address\n",
        done.stderr,
    )


def test_help_teaches_every_flag_and_variable_in_80_columns() -> None:
    done = run("--help", COLUMNS="80")
    assert done.returncode == 0
    assert done.stderr == ""
    words = " ".join(done.stdout.split())
    for setting in settings.sidecar_settings():
        assert f"{setting.flag} {setting.form}" in words
        assert f"[{setting.env}]" in words
        if setting.default:
            assert f"Default: {setting.default}" in re.sub(r"(?<=[a-z])- (?=[a-z])", "-", words)
    assert "Exit codes: 0" in words
    lines = done.stdout.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 80


def test_the_example_in_the_help_is_one_that_is_taken() -> None:
    (example,) = re.findall(r"python -m sidecar (--source .*)", run("--help").stdout)
    flags = dict(zip(example.split()[::2], example.split()[1::2], strict=True))
    given = {
        setting.name: [flags[setting.flag]]
        for setting in settings.sidecar_settings()
        if setting.flag in flags
    }
    assert len(given) == len(flags)
    settings.from_flags_and_environment(given, {})
