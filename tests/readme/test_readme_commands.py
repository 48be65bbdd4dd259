"""What README.md and docs/ tell a reader to type works; the commands for a cluster are tests/e2e's."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from doc_commands import ROOT, Block, blocks, commands, links, pages

pytestmark = pytest.mark.once

BLOCK_SECONDS = 300.0


@functools.cache
def _alone() -> bool:
    missing = os.geteuid() != 0 or any(shutil.which(name) is None for name in ("unshare", "ip"))
    return (
        not missing
        and subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True).returncode == 0
    )


def run(block: Block, seconds: float) -> None:
    """In a shell of its own that ends at the first failure. Whatever it leaves running ends with it."""
    # Alone in a network of its own, where that is to be had: the ports in the documents may be taken here.
    alone = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"] if _alone() else []
    shell = subprocess.Popen(
        [*alone, "bash", "-euo", "pipefail", "-c", block.text],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # pytest's own variables would reach programs that are started here.
        env={key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "MAKE"))},
    )
    try:
        told, _ = shell.communicate(timeout=seconds)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
    if shell.returncode:
        pytest.fail(
            f"{block}: exit code {shell.returncode}\n{block.text}\n---\n{told[-4000:]}", pytrace=False
        )


@pytest.mark.timeout(BLOCK_SECONDS + 30)
@pytest.mark.parametrize("block", commands("here"), ids=str)
def test_commands_run_from_the_root(block: Block) -> None:
    run(block, BLOCK_SECONDS)


@pytest.mark.parametrize("block", commands("ci"), ids=str)
def test_continuous_integration_runs_the_command(block: Block) -> None:
    run_by_ci = {line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()}
    assert not set(block.lines()) - run_by_ci


def test_a_block_is_found_with_its_mark_and_its_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n<!-- runs: here -->\n```sh\na \\\n  b\nc\n```\n\n```text\n$ d\n```\n"
        "1. item\n\n   <!-- runs: cluster -->\n   ```sh\n   e\n   ```\n"
    )
    found = list(blocks(page, tmp_path))
    assert [(b.language, b.runs) for b in found] == [("sh", "here"), ("text", ""), ("sh", "cluster")]
    assert found[0].lines() == ["a   b", "c"]
    assert found[2].text == "e"
    page.write_text("```sh\na\n")
    with pytest.raises(ValueError, match=r"page\.md:1: this fenced block does not end"):
        list(blocks(page, tmp_path))


def test_a_command_that_fails_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="exit code 3"):
        run(Block("page.md", 1, "sh", "here", "(exit 3) | cat"), 30)


# The pictures ---------------------------------------------------------------------------------------------


def _pictures() -> tuple[str, str]:
    first, second, *_ = [block.text for block in blocks(ROOT / "README.md") if block.language == "text"]
    return first, second


def test_the_readme_opens_with_one_pod_busy_and_then_even() -> None:
    bars, _ = _pictures()
    shares = [int(share) for share in re.findall(r"(\d+)%", bars)]
    assert sorted(shares[:3]) == [0, 0, 100]
    assert max(shares[3:]) - min(shares[3:]) <= 2
    assert sum(shares[3:]) in (99, 100, 101)


def test_the_readmes_table_is_one_that_the_demo_prints() -> None:
    """Same heading, same phases, and max/mean is that of the counts beside it."""
    from demolib import verdict
    from demolib.story import NAMES

    _, table = _pictures()
    heading, *rows = table.splitlines()
    counts = []
    for row in rows:
        title, figures = re.match(r"(\w+(?: \w+)*?) +(\d.*)", row).groups()  # type: ignore[union-attr]
        total, *calls = figures.split()[: 1 + len(NAMES)]
        served = {name: int(count) for name, count in zip(NAMES, calls, strict=True) if count != "-"}
        assert int(total) == sum(served.values()), row
        ratio = float(figures.split()[1 + len(NAMES)])
        assert ratio == round(max(served.values()) / (sum(served.values()) / len(served)), 2), row
        counts.append((title, served))
    assert [title for title, _ in counts] == ["direct", "sidecar", "two joined", "one left"]
    phases = [verdict.Phase(title, served, {}, 0, title != "direct") for title, served in counts]
    assert verdict.table(phases, NAMES, 100)[0].split() == heading.split()


# The way through -------------------------------------------------------------------------------------------


@pytest.mark.timeout(BLOCK_SECONDS)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every page, link and anchor; nothing in it is loaded from elsewhere."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "docs/mkdocs/mkdocs.yml"]
        + ["--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = {str(page.relative_to(tmp_path / "site")) for page in (tmp_path / "site").rglob("*.html")}
    for page in pages()[1:]:
        assert str(page.relative_to(ROOT / "docs").with_suffix(".html")) in built
    text = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'(?:<script[^>]* src|<link[^>]* href)="?(https?://[^" >]+)', text)


def test_a_page_of_docs_can_be_reached_from_the_readme() -> None:
    readme, *docs = pages()
    seen, waiting = set[Path](), [readme]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        waiting += [
            (page.parent / urlsplit(link).path).resolve() for link in links(page) if not urlsplit(link).scheme
        ]
    decisions = ROOT / "docs" / "adr"  # the README links the folder
    assert not sorted(page.name for page in set(docs) - seen if page.parent != decisions)
