"""Image files: the two that the cluster itself needs, the base image, the project's own."""

import contextlib
import datetime
import hashlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import artefacts, docker, packages, paths, shell

PAUSE = f"evenstream.local/pause:{artefacts.PAUSE.version}"
COREDNS = f"evenstream.local/coredns:{artefacts.COREDNS.version}"

BASE = "python:3.13-slim"
BASE_SUITE = "trixie"  # the Debian release with that Python
BASE_PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates", "iptables")
BASE_HEADERS = "libpython3.13-dev"  # the real image has Python.h
BASE_RECIPE = 2  # goes up when the steps below change
BASE_LABEL = "evenstream.dev/stand-in"  # tells ours from the real image
BASE_CONFIG = (
    f"LABEL {BASE_LABEL}={BASE_RECIPE}",
    'CMD ["python3"]',
    "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
)

PULL_DEADLINE = 180.0  # 50 MB; a registry that cannot be reached answers, or does not, well before
DEBOOTSTRAP_DEADLINE = 1200.0  # 1 to 6 minutes were seen
BUILD_DEADLINE = 1800.0
COPY_DEADLINE = 300.0  # saving and importing some hundred MB
RUNTIME_DEADLINE = 30.0


@dataclass(frozen=True)
class ProjectImage:
    name: str
    dockerfile: str
    context: str


PROJECT = (
    ProjectImage("evenstream-injector:dev", "Dockerfile.injector", "."),
    ProjectImage("evenstream-sidecar:dev", "Dockerfile.sidecar", "."),
    ProjectImage("evenstream-greeter:dev", "examples/greeter/Dockerfile", "examples/greeter"),
)


# The cluster's own images: one static binary each, so a tar file is all there is to them --------------------


def pause_file() -> Path:
    return _binary_image(artefacts.PAUSE, PAUSE)


def coredns_file() -> Path:
    return _binary_image(artefacts.COREDNS, COREDNS)


def _binary_image(artefact: artefacts.Artefact, name: str) -> Path:
    """The image of one program, in the format of `docker save`."""
    image = artefact.folder / "image.tar"
    if image.exists():
        return image
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        _add(archive, artefact.name, artefact.binary.read_bytes(), 0o755)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    go_architectures = {"x86_64": "amd64", "aarch64": "arm64"}
    machine = os.uname().machine
    config = json.dumps(
        {
            "architecture": go_architectures.get(machine, machine),
            "os": "linux",
            "config": {"Entrypoint": [f"/{artefact.name}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    unfinished = image.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w") as archive:
        _add(archive, "layer.tar", layer.getvalue())
        _add(archive, "config.json", config)
        _add(archive, "manifest.json", manifest)
    unfinished.replace(image)
    return image


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    archive.addfile(entry, io.BytesIO(content))


# Into the cluster -------------------------------------------------------------------------------------------


def ctr(*words: str | Path) -> list[str]:
    return [shell.need("ctr"), f"--address={paths.CONTAINERD_SOCKET}", "--namespace=k8s.io", *map(str, words)]


def import_files(*files: Path) -> None:
    # The socket is there before the image service is.
    shell.wait_for(
        "containerd answers",
        lambda: shell.run(ctr("images", "list", "--quiet"), check=False).returncode == 0,
        RUNTIME_DEADLINE,
    )
    for each in files:
        shell.run(ctr("images", "import", each), deadline=COPY_DEADLINE)


def load(names: Sequence[str]) -> None:
    """Copy images from Docker into the local cluster."""
    command = docker.Docker.find()
    for name in names:
        if command.run("image", "inspect", name, check=False).returncode != 0:
            raise shell.ClusterError(f"Docker has no image {name}")
    save = subprocess.Popen([*command.words, "save", *names], stdout=subprocess.PIPE, env=command.env)
    try:
        done = subprocess.run(
            ctr("images", "import", "-"),
            stdin=save.stdout,
            capture_output=True,
            text=True,
            timeout=COPY_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        save.kill()
        raise shell.ClusterError(f"copying images took more than {COPY_DEADLINE:.0f} s") from None
    if save.stdout:
        save.stdout.close()
    if save.wait() != 0 or done.returncode != 0:
        raise shell.ClusterError(f"could not load {' '.join(names)}: {done.stderr.strip()[-500:]}")
    shell.say(f"loaded {' '.join(names)}")


# The project's images ---------------------------------------------------------------------------------------


def build(wanted: Sequence[str]) -> list[str]:
    """Build the project's images, or those named; the names of what was built."""
    chosen = [
        each for each in PROJECT if not wanted or each.name in wanted or each.name.split(":")[0] in wanted
    ]
    unknown = set(wanted) - {name for each in chosen for name in (each.name, each.name.split(":")[0])}
    if unknown:
        raise shell.ClusterError(
            f"no such image: {' '.join(sorted(unknown))}; there are: {', '.join(i.name for i in PROJECT)}"
        )
    missing = [each.dockerfile for each in chosen if not (paths.REPO / each.dockerfile).exists()]
    if missing:
        raise shell.ClusterError(f"no such file: {', '.join(missing)}")
    command = docker.Docker.find()
    ensure_base(command)
    labels = _labels()
    with _secrets() as secrets:
        failures = []
        for each in chosen:
            log = paths.CACHE / "docker" / f"{each.name.split(':')[0]}.log"
            shell.say(f"building {each.name} (seconds, or minutes for what is new); log: {log}")
            tag, dockerfile = f"--tag={each.name}", f"--file={paths.REPO / each.dockerfile}"
            words = [*command.words, "build", "--network=host", tag, dockerfile, *secrets]
            if each.context == ".":
                words += labels
            environment = {**command.env, "BUILDKIT_PROGRESS": "plain"}
            try:
                shell.run_logged(
                    [*words, paths.REPO / each.context], log, deadline=BUILD_DEADLINE, env=environment
                )
            except shell.ClusterError as error:  # the others may still be wanted
                failures.append(str(error))
    if command.own:
        command.run("image", "prune", "--force", deadline=COPY_DEADLINE)  # the builds that these replace
    if failures:
        raise shell.ClusterError("\n".join(failures))
    return [each.name for each in chosen]


def _labels() -> list[str]:
    """What the images' labels say of their origin: nothing that differs between two builds of one commit."""
    found = {"VERSION": runpy.run_path(str(paths.REPO / "contract" / "names.py"))["VERSION"]}
    git = ["git", "-C", paths.REPO]
    if shell.find("git") and shell.run([*git, "rev-parse", "HEAD"], check=False).returncode == 0:
        changed = shell.run([*git, "status", "--porcelain"]).stdout.strip()
        found["REVISION"] = shell.run([*git, "rev-parse", "HEAD"]).stdout.strip() + (
            "-dirty" if changed else ""
        )
        date = int(shell.run([*git, "log", "-1", "--format=%ct"]).stdout)
        found["CREATED"] = datetime.datetime.fromtimestamp(date, datetime.UTC).isoformat()
    return [f"--build-arg={name}={value}" for name, value in found.items()]


@contextlib.contextmanager
def _secrets() -> Iterator[list[str]]:
    """The machine's certificate bundle and pip settings, for the time of the build and never in a layer."""
    options = []
    bundles = (
        os.environ.get("PIP_CERT"),
        os.environ.get("SSL_CERT_FILE"),
        "/etc/ssl/certs/ca-certificates.crt",
    )
    bundle = next((path for path in bundles if path and Path(path).is_file()), None)
    if bundle:
        options.append(f"--secret=id=ca,src={bundle}")
    with tempfile.TemporaryDirectory() as folder:
        config = _pip_config()
        if config:
            file = Path(folder) / "pip.conf"
            shell.write(file, config, 0o600)
            options.append(f"--secret=id=pip,src={file}")
        yield options


def _pip_config() -> str:
    """Where pip gets packages from, whether a file or the environment says so."""
    settings = {}
    listed = shell.run([sys.executable, "-m", "pip", "config", "list"], check=False).stdout
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        name = name.rpartition(".")[2]
        if name in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries"):
            settings[name] = value.strip().strip("'\"").replace("\\n", "\n    ")
    if not settings:
        return ""
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


# The base image ---------------------------------------------------------------------------------------------


def ensure_base(command: docker.Docker) -> None:
    """The real base image, or where no registry can be reached, one made from Debian packages."""
    label = f'--format={{{{index .Config.Labels "{BASE_LABEL}"}}}}'
    found = command.run("image", "inspect", label, BASE, check=False)
    if found.returncode == 0 and found.stdout.strip() in ("", str(BASE_RECIPE)):
        return
    file = paths.CACHE / "images" / f"base-{BASE_SUITE}-{BASE_RECIPE}.tar"
    if not file.exists():
        shell.say(f"pulling {BASE}")
        try:
            command.run("pull", BASE, deadline=PULL_DEADLINE)
        except shell.ClusterError as error:
            cause = str(error).splitlines()[-1].strip()[:150]
            shell.say(f"cannot pull it ({cause}); making one with debootstrap, once")
        else:
            return
        _make_base(file)
    changes = [f"--change={line}" for line in BASE_CONFIG]
    command.run("import", *changes, str(file), BASE, deadline=COPY_DEADLINE)
    # BuildKit was seen to take layers made from the image that had this name before.
    command.run("builder", "prune", "--all", "--force", deadline=COPY_DEADLINE)


def _make_base(file: Path) -> None:
    packages.ensure(packages.BASE_IMAGE_PROGRAMS)
    if os.geteuid() != 0:
        raise shell.ClusterError("making the base image with debootstrap needs root")
    root = file.with_suffix(".root")
    shutil.rmtree(root, ignore_errors=True)
    log = file.with_suffix(".log")
    words = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(BASE_PACKAGES)}",
        BASE_SUITE,
        root,
        _debian_mirror(),
    ]
    shell.run_logged(["nice", *words], log, deadline=DEBOOTSTRAP_DEADLINE)
    # Only the headers: the package's other files, and what it depends on, are of no use to a compiler.
    for step in (("apt-get", "update"), ("apt-get", "download", BASE_HEADERS)):
        shell.run_logged(
            ["chroot", root, *step], file.with_suffix(".headers.log"), deadline=DEBOOTSTRAP_DEADLINE
        )
    for package in root.glob(f"{BASE_HEADERS}_*.deb"):
        with tempfile.NamedTemporaryFile() as content:
            shell.run(["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" > "$2"', "sh", package, content.name])
            shell.run(["tar", "--extract", f"--file={content.name}", f"--directory={root}", "./usr/include"])
        package.unlink()
    # As in the real image: pip may install, and all three names are in /usr/local/bin.
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for name, target in (("python", "python3"), ("python3", "python3"), ("pip", "pip3")):
        (root / "usr/local/bin" / name).symlink_to(f"/usr/bin/{target}")
    for folder in (
        "var/cache",
        "var/lib/apt/lists",
        "var/log",
        "usr/share/doc",
        "usr/share/locale",
        "usr/share/man",
    ):
        for path in (root / folder).rglob("*"):
            if path.is_file() or path.is_symlink():
                path.unlink()
    for machines_own in ("etc/resolv.conf", "etc/hostname"):
        (root / machines_own).unlink(missing_ok=True)
    unfinished = file.with_suffix(".unfinished")
    shell.run(
        ["tar", "--numeric-owner", "--create", f"--file={unfinished}", f"--directory={root}", "."],
        deadline=COPY_DEADLINE,
    )
    unfinished.replace(file)
    shutil.rmtree(root)


def _debian_mirror() -> str:
    """The mirror that this machine itself installs from."""
    sites = shell.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(REPO_URI) $(ORIGIN)"]
    ).stdout.splitlines()
    for line in sites:
        site = line.split(" ")[0]
        if line.endswith(" Debian") and "security" not in site:
            return site
    raise shell.ClusterError("apt knows no Debian mirror to make a base image from")
