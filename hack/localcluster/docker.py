"""The Docker that builds images: the one that runs already, or a daemon of the cluster's own."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import packages, paths, shell
from .box import Box

BOX = Box(paths.RUN / "docker")
LOGS = paths.CACHE / "docker" / "logs"
START_DEADLINE = 60.0  # 2 s here; the first start on a slow disk takes longer


def _clients() -> list[str]:
    """A client that was put in front of Debian's may lack BuildKit, which Debian's 20.10 has built in."""
    candidates = (shell.find("docker"), "/usr/bin/docker", "/usr/local/bin/docker")
    return [path for path in dict.fromkeys(candidates) if path and os.access(path, os.X_OK)]


@dataclass(frozen=True)
class Docker:
    words: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)

    @property
    def own(self) -> bool:
        """Whether the daemon is the cluster's own, so that nobody else keeps anything in it."""
        return self.env.get("DOCKER_HOST") == f"unix://{paths.DOCKER_SOCKET}"

    def run(self, *words: str, check: bool = True, deadline: float = shell.COMMAND_DEADLINE):  # type: ignore[no-untyped-def]
        return shell.run([*self.words, *words], check=check, deadline=deadline, env=self.env)

    @classmethod
    def find(cls) -> "Docker":
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        if not _answers(environment):
            environment["DOCKER_HOST"] = f"unix://{paths.DOCKER_SOCKET}"
            if not _answers(environment):
                start()
        for client in _clients():
            if _has_buildkit(client, environment):
                return cls((client,), environment)
        raise shell.ClusterError("no docker client here has BuildKit: install docker-buildx")


def _answers(environment: Mapping[str, str]) -> bool:
    return any(
        shell.run(
            [client, "version", "--format={{.Server.Version}}"], check=False, env=environment
        ).returncode
        == 0
        for client in _clients()[:1]
    )


def _has_buildkit(client: str, environment: Mapping[str, str]) -> bool:
    if shell.run([client, "buildx", "version"], check=False, env=environment).returncode == 0:
        return True
    version = shell.run(
        [client, "version", "--format={{.Client.Version}}"], check=False, env=environment
    ).stdout
    # From 23 on the client leaves BuildKit to the buildx plugin.
    major = version.strip().split(".")[0]
    return major.isdigit() and int(major) < 23


def start() -> None:
    if os.geteuid() != 0:
        raise shell.ClusterError("no Docker daemon answers, and starting one needs root")
    packages.ensure(packages.DOCKER_PROGRAMS)
    with shell.lock(paths.CACHE / "docker.lock"):
        if BOX.pid() is None:
            shell.say(f"starting dockerd; logs: {LOGS}")
            data = paths.CACHE / "docker" / "data"
            data.mkdir(parents=True, exist_ok=True)
            command = [
                shell.need("dockerd"), f"--data-root={data}", f"--exec-root={BOX.folder / 'exec'}",
                f"--pidfile={BOX.folder / 'dockerd.pid'}", f"--host=unix://{paths.DOCKER_SOCKET}",
                # It only builds, on the machine's own network: no bridge, and no firewall rule of its own.
                "--storage-driver=overlay2", "--bridge=none", "--iptables=false", "--ip6tables=false",
            ]  # fmt: skip
            (BOX.folder / "dockerd.pid").unlink(missing_ok=True)
            BOX.start(
                {"programs": [{"name": "dockerd", "command": command}], "logs": str(LOGS)}, private=True
            )
    environment = {**os.environ, "DOCKER_HOST": f"unix://{paths.DOCKER_SOCKET}"}
    try:
        shell.wait_for("dockerd answers", lambda: _answers(environment), START_DEADLINE)
    except shell.ClusterError as error:
        raise shell.ClusterError(f"{error}\n{shell.tail(LOGS / 'dockerd.log')}") from None


def stop() -> None:
    """End our own daemon, if it runs; its layers stay in the cache."""
    BOX.stop(gently=True)
    paths.DOCKER_SOCKET.unlink(missing_ok=True)
