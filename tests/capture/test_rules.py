"""The rules as text, and the program that applies them up to the point where it would run iptables."""

import os
import subprocess
import sys

import pytest

from contract import names
from sidecar.capture.__main__ import has_global_ipv6, main, parse_arguments
from sidecar.capture.rules import Family, Rules, restore_input

RULES = Rules(
    excluded_ports=(5432, 6379),
    excluded_networks=("10.0.0.0/8", "fd00::/8"),
    api_server=("10.96.0.1", 443),
)


def test_ipv4_rules_read_like_this():
    assert restore_input(RULES, 4, jump_present=False) == (
        "*nat\n"
        ":EVENSTREAM_OUTPUT - [0:0]\n"
        "-A EVENSTREAM_OUTPUT -o lo -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -d 127.0.0.0/8 -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -m owner --uid-owner 15015 -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -p tcp --dport 53 -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -d 10.96.0.1/32 -p tcp --dport 443 -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -p tcp --dport 5432 -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -p tcp --dport 6379 -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -d 10.0.0.0/8 -j RETURN\n"
        "-A EVENSTREAM_OUTPUT -p tcp -j REDIRECT --to-ports 15001\n"
        "-A OUTPUT -p tcp -j EVENSTREAM_OUTPUT\n"
        "COMMIT\n"
    )


def test_ipv6_rules_hold_only_what_is_ipv6():
    text = restore_input(RULES, 6, jump_present=False)
    assert "-d fd00::/8 -j RETURN" in text
    assert "-d ::1/128 -j RETURN" in text
    assert "10." not in text
    assert "127." not in text
    assert "-d fd00::1/128 -p tcp --dport 6443 -j RETURN" in restore_input(
        Rules(api_server=("fd00::1", 6443)), 6, jump_present=False
    )


@pytest.mark.parametrize("family", [4, 6])
def test_the_redirect_comes_last_and_the_jump_only_once(family: Family):
    lines = restore_input(RULES, family, jump_present=True).splitlines()
    assert lines[-2].endswith(f"-j REDIRECT --to-ports {names.CAPTURE_PORT}")
    assert not any(line.startswith("-A OUTPUT") for line in lines)


def test_the_api_server_is_read_from_the_kubelets_environment():
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    rules, dry_run, note = parse_arguments([], environment)
    assert (rules.api_server, dry_run, note) == (("fd00::1", 6443), False, "")


def test_an_api_server_with_a_host_name_is_noted_and_left_out():
    rules, _, note = parse_arguments([], {"KUBERNETES_SERVICE_HOST": "api.example"})
    assert rules.api_server is None
    assert "api.example:443" in note


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to-port", "0"], "argument --to-port: '0' is not allowed; allowed: a port from 1 to 65535"),
        (["--exempt-uid", "root"], "'root' is not allowed; allowed: a user id"),
        (["--exclude-outbound-ports", "1,x"], "'1,x' is not allowed; allowed: ports"),
        (["--exclude-outbound-cidrs", "10.0.0.1/8"], "'10.0.0.1/8' is not allowed; allowed: CIDRs"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_2(arguments: list[str], says: str):
    done = subprocess.run(
        [sys.executable, "-m", "sidecar.capture", *arguments], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_dry_run_prints_both_families_and_runs_nothing(capsys: pytest.CaptureFixture[str]):
    assert main(["--dry-run", "--exclude-outbound-ports=9"], {"PATH": "/nonexistent"}) == 0
    out = capsys.readouterr().out
    assert out.count("*nat") == out.count("COMMIT") == 2
    assert out.count("--dport 9 -j RETURN") == 2


def test_without_iptables_it_fails_in_one_line_that_names_what_was_tried(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([], os.environ) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "iptables-nft: not installed; iptables-legacy: not installed" in err


def test_a_backend_that_fails_is_followed_by_the_next(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Programs that behave like iptables on a kernel without nf_tables."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for program in ("iptables", "ip6tables"):
        for backend, code in (("-nft", 3), ("-legacy", 0)):
            for suffix, exit_code in (("", 1), ("-restore", code)):
                script = tmp_path / f"{program}{backend}{suffix}"
                script.write_text(f"#!/bin/sh\ncat > {script}.in\necho no such table >&2\nexit {exit_code}\n")
                script.chmod(0o755)
    assert main([], os.environ) == 0
    assert "by iptables-legacy" in capsys.readouterr().err
    assert (tmp_path / "iptables-legacy-restore.in").read_text() == restore_input(
        Rules(), 4, jump_present=False
    )


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("", False),
        ("00000000000000000000000000000001 01 80 10 80       lo\n", False),
        ("fe800000000000000000000000000001 02 40 20 80     eth0\n", False),
        ("fd000250000000000000000000000002 02 40 00 80     eth0\n", True),
    ],
)
def test_only_an_address_that_reaches_others_makes_ipv6_necessary(listing: str, expected: bool):
    assert has_global_ipv6(listing) is expected
