"""Debian packages: installed only where a program is missing, and without starting any service."""

import os
from pathlib import Path

from . import paths, shell

# Each program that is run, and the Debian package that has it.
APISERVER_PROGRAMS = {"etcd": "etcd-server", "openssl": "openssl"}
CLUSTER_PROGRAMS = {
    **APISERVER_PROGRAMS,
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}
DOCKER_PROGRAMS = {"dockerd": "docker.io", "nsenter": "util-linux", "unshare": "util-linux"}
BASE_IMAGE_PROGRAMS = {"debootstrap": "debootstrap", "dpkg-deb": "dpkg", "tar": "tar"}

CNI_PACKAGE = "containernetworking-plugins"
CNI_DIRECTORIES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))

INSTALL_DEADLINE = 600.0  # 70 MB in all; minutes only where the mirror is slow

# Debian starts a daemon as soon as its package is installed, unless this file says no.
POLICY = Path("/usr/sbin/policy-rc.d")


def cni_directory() -> Path | None:
    return next((path for path in CNI_DIRECTORIES if (path / "bridge").exists()), None)


def ensure(programs: dict[str, str], *, cni: bool = False) -> None:
    """Install what is missing. Raises ClusterError if that cannot be done here."""
    if not _missing(programs, cni):
        return
    with shell.lock(paths.CACHE / "packages.lock"):  # two at once would meet at apt's own lock, and fail
        names = _missing(programs, cni)
        if not names:
            return
        if shell.find("apt-get") is None:
            raise shell.ClusterError(f"install what Debian calls: {' '.join(names)}")
        if os.geteuid() != 0:
            raise shell.ClusterError(
                f"run as root once, or: apt-get install --no-install-recommends {' '.join(names)}"
            )
        shell.say(f"installing {' '.join(names)}")
        install(names)


def _missing(programs: dict[str, str], cni: bool) -> list[str]:
    missing = {package for program, package in programs.items() if shell.find(program) is None}
    if cni and cni_directory() is None:
        missing.add(CNI_PACKAGE)
    return sorted(missing)


def install(names: list[str]) -> None:
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *names]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    guarded = not POLICY.exists()
    if guarded:
        shell.write(POLICY, "#!/bin/sh\nexit 101\n", 0o755)
    try:
        # With package lists already there the first try does; a fresh machine has none.
        if shell.run(command, deadline=INSTALL_DEADLINE, env=env, check=False).returncode != 0:
            shell.run(["apt-get", "update"], deadline=INSTALL_DEADLINE, env=env)
            shell.run(command, deadline=INSTALL_DEADLINE, env=env)
    finally:
        if guarded:
            POLICY.unlink(missing_ok=True)
