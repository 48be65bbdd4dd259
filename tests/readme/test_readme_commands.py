"""What README.md and docs/ tell a reader to type works; the commands for a cluster are tests/e2e's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from doc_commands import ROOT, Block, blocks, commands, links, pages

pytestmark = pytest.mark.once

BLOCK_SECONDS = 300.0


def run(block: Block, seconds: float) -> None:
    """In a shell of its own that ends at the first failure. Whatever it leaves running ends with it."""
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block.text],
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
