"""The wheel, made by the command of the Dockerfiles: what is in it, and what happens where it cannot be compiled."""

from __future__ import annotations

import configparser
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from contract import names

ROOT = Path(__file__).resolve().parents[2]
# What .dockerignore lets into an image's build.
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "contract", "injector", "sidecar")
COMPILED_PACKAGES = ("sidecar/wire", "sidecar/balance", "sidecar/splice", "sidecar/net")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

# One worker makes each wheel once. Two minutes of CPU where `make build` has not left its objects.
pytestmark = [pytest.mark.once, pytest.mark.xdist_group("wheel"), pytest.mark.timeout(600)]


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As in Dockerfile.sidecar; the wheel is in `tree`/wheel."""
    return subprocess.run(
        ["nice", sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--wheel-dir", "wheel", "."],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def copied(tree: Path) -> Path:
    """The sources, without what a build leaves beside them."""
    leave = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=leave)
        else:
            shutil.copy2(ROOT / name, tree / name)
    return tree


def built(tree: Path, **environment: str) -> zipfile.ZipFile:
    done = build(tree, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "wheel").iterdir()
    return zipfile.ZipFile(wheel)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    tree = copied(tmp_path_factory.mktemp("compiled"))
    # The objects of `make build`, if it has left any: setuptools compiles only what is older than its source.
    if (ROOT / "build").is_dir():
        leave = shutil.ignore_patterns("bdist.*", "lib", "site")
        shutil.copytree(ROOT / "build", tree / "build", ignore=leave)
        # setuptools would also pack modules whose source is gone since then.
        for old in (tree / "build").glob("lib.*/sidecar/**/*.so"):
            module = Path(*old.relative_to(tree / "build").parts[1:])
            if not (tree / module.with_name(module.name.removesuffix(SUFFIX) + ".py")).exists():
                old.unlink()
    return built(tree)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return built(copied(tmp_path_factory.mktemp("interpreted")), EVENSTREAM_COMPILE="0")


def headers(wheel: zipfile.ZipFile, name: str) -> Message:
    return Parser().parsestr(wheel.read(f"evenstream-{names.VERSION}.dist-info/{name}").decode())


def sources(*packages: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}


def test_setup_compiles_the_packages_that_move_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVENSTREAM_COMPILE", "0")
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    assert runpy.run_path(str(ROOT / "setup.py"))["COMPILED_PACKAGES"] == COMPILED_PACKAGES


def test_every_module_that_moves_bytes_is_compiled(compiled: zipfile.ZipFile):
    wanted = {
        path.removesuffix(".py") + SUFFIX
        for path in sources(*COMPILED_PACKAGES)
        if not path.endswith("__init__.py")
    }
    found = {name for name in compiled.namelist() if name.endswith(".so")}
    assert len(wanted) > 20
    # The modules are thin; what they hold is in one library beside them.
    assert found - wanted == {f"evenstream__mypyc{SUFFIX}"}
    assert wanted <= found


@pytest.mark.parametrize("kind", ["compiled", "interpreted"])
def test_the_wheel_holds_all_of_the_three_packages_and_nothing_else(
    kind: str, request: pytest.FixtureRequest
):
    wheel: zipfile.ZipFile = request.getfixturevalue(kind)
    beside = {
        "contract/py.typed",
        "injector/py.typed",
        "sidecar/py.typed",
        "sidecar/admin/page.html",
    }
    found = {name for name in wheel.namelist() if ".dist-info/" not in name and not name.endswith(".so")}
    assert found == sources("contract", "injector", "sidecar") | beside


@pytest.mark.parametrize("kind", ["compiled", "interpreted"])
def test_the_wheel_says_what_it_is(kind: str, request: pytest.FixtureRequest):
    wheel: zipfile.ZipFile = request.getfixturevalue(kind)
    folder = f"evenstream-{names.VERSION}.dist-info"
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    metadata = headers(wheel, "METADATA")
    assert (metadata["Name"], metadata["Version"]) == ("evenstream", names.VERSION)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    scripts = configparser.ConfigParser()
    scripts.optionxform = str  # type: ignore[assignment, method-assign]
    scripts.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {
        "evenstream": "injector.cli.__main__:main",
        "kubectl-evenstream": "injector.cli.__main__:main",
        "kubectl_complete-evenstream": "injector.cli.__main__:complete_for_kubectl",
    }
    assert headers(wheel, "WHEEL")["Root-Is-Purelib"] == {"compiled": "false", "interpreted": "true"}[kind]


def test_an_unpacked_wheel_is_the_compiled_sidecar(compiled: zipfile.ZipFile, tmp_path: Path):
    compiled.extractall(tmp_path)
    code = "import sidecar.splice.engine as e, sidecar.app; print(e.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k not in ("EVENSTREAM_BUILD", "PYTHONPATH")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(tmp_path / f"sidecar/splice/engine{SUFFIX}"), done.stderr


def test_without_compilation_the_wheel_fits_every_machine(interpreted: zipfile.ZipFile):
    assert Path(interpreted.filename or "").name == f"evenstream-{names.VERSION}-py3-none-any.whl"
    assert not [name for name in interpreted.namelist() if name.endswith(".so")]


# Where it cannot be compiled: one module stands for all, since the first one fails --------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "contract").mkdir()
    (tmp_path / "sidecar" / "wire").mkdir(parents=True)
    for package in ("contract", "sidecar", "sidecar/wire"):
        (tmp_path / package / "__init__.py").touch()
    shutil.copy2(ROOT / "contract" / "names.py", tmp_path / "contract" / "names.py")
    (tmp_path / "sidecar" / "wire" / "one.py").write_text("def one() -> int:\n    return 1\n")
    return tmp_path


def refused(tree: Path, **environment: str) -> str:
    done = build(tree, **environment)
    assert done.returncode != 0
    assert not list(tree.glob("wheel/*.whl"))
    return done.stdout + done.stderr


def test_without_a_c_compiler_there_is_no_wheel(small: Path):
    said = refused(small, CC="false", EVENSTREAM_COMPILE="1")
    assert "error: Evenstream could not be compiled: it takes a C compiler and Python's headers." in said
    assert "EVENSTREAM_COMPILE=0" in said


def test_without_mypyc_there_is_no_wheel(small: Path):
    hidden = small / "hidden"
    hidden.mkdir()
    (hidden / "mypyc.py").write_text("raise ImportError('hidden')\n")
    said = refused(small, PYTHONPATH=str(hidden))
    assert "error: Evenstream is compiled with mypyc, which cannot be imported (hidden)" in said


def test_what_mypyc_does_not_accept_gives_no_wheel(small: Path):
    (small / "sidecar" / "wire" / "one.py").write_text("def one() -> int:\n    return 'one'\n")
    assert 'Incompatible return value type (got "str", expected "int")' in refused(small)


def test_another_value_of_the_switch_is_refused(small: Path):
    said = refused(small, EVENSTREAM_COMPILE="yes")
    assert (
        "error: EVENSTREAM_COMPILE is 'yes'; allowed are 1 (compiled, the default) and 0 (interpreted)"
        in said
    )
