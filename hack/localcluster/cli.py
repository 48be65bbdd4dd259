"""The commands and their help."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import apiserver, artefacts, context, docker, images, node, paths, shell

DESCRIPTION = """\
A real single-node Kubernetes on a machine that has none: compiled from its Go modules, once, and started
in namespaces of its own, so that stopping it leaves nothing behind."""

EPILOG = """\
environment:
  CONTEXT=name       use this context of your kubeconfig instead: up and status only look, load copies
                     images where it can (kind, minikube), down does nothing
  EVENSTREAM_CACHE   where binaries, images and state lie (default: ~/.cache/evenstream)

It runs as root on Linux. The first `up` compiles for 5 to 15 minutes and needs Go; a later one takes
seconds."""

PASS_THROUGH = ("exec", "kubectl")


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    # argparse would take the options of another program for its own.
    own = words[:1] if words[:1] and words[0] in PASS_THROUGH else words
    options = parser().parse_args(own)
    options.words = words[len(own) :]
    try:
        return int(options.run(options) or 0)
    except shell.ClusterError as error:
        shell.say(str(error))
        return 1
    except KeyboardInterrupt:
        shell.say("stopped")
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="hack/cluster",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        each = commands.add_parser(name, help=text, description=text)
        each.set_defaults(run=run)
        return each

    command("up", up, "build what is missing, start the cluster, wait until it is ready")
    command("down", down, "stop everything and clean up; the cache stays")
    command("status", status, "what runs; exit code 0 if all of it does")
    command("kubeconfig", kubeconfig, "print the path of the kubeconfig")
    command("build", build, "only compile what is missing in the cache")
    each = command(
        "images", build_images, "build the project's images with Docker, and load them if a cluster runs"
    )
    each.add_argument("name", nargs="*", help="only these")
    each = command("load", load, "copy images from Docker into the cluster")
    each.add_argument("image", nargs="+")
    command("exec", enter, "run a command in the local cluster's namespaces (ip, iptables, ps, ...)")
    each = command(
        "stop",
        stop_program,
        "kill one of the local cluster's programs, e.g. kube-apiserver, and keep it down",
    )
    each.add_argument("program")
    each = command("start", start_program, "start again what stop ended")
    each.add_argument("program")
    command("kubectl", kubectl, "run kubectl against the cluster; there is one in the cache")
    command("docker-env", docker_env, "start Docker if needed and print the variables that reach it")
    each = command(
        "apiserver-up", apiserver_up, "start etcd and kube-apiserver alone, without root; prints JSON"
    )
    each.add_argument(
        "--dir", type=Path, default=apiserver.ALONE, help="where its files lie; one server each"
    )
    each.add_argument("--while-pid", type=int, metavar="PID", help="end by itself when this process does")
    each = command("apiserver-down", apiserver_down, "stop what apiserver-up started")
    each.add_argument("--dir", type=Path, default=apiserver.ALONE)
    return top


def up(_: argparse.Namespace) -> None:
    name = context.chosen()
    if name:
        context.verify(name)
        shell.say(f"context {name} answers; nothing is started")
        return
    if not node.up():
        shell.say("runs already")
    print(f"export KUBECONFIG={paths.KUBECONFIG}")


def down(_: argparse.Namespace) -> None:
    if context.chosen():
        shell.say(f"context {context.chosen()} is not ours to stop")
        return
    node.down()
    docker.stop()
    shell.say("nothing runs any more")


def status(_: argparse.Namespace) -> int:
    if context.chosen():
        context.status(context.chosen())
        return 0
    return 0 if node.status() else 1


def kubeconfig(_: argparse.Namespace) -> None:
    print(context.kubeconfig() if context.chosen() else paths.KUBECONFIG)


def build(_: argparse.Namespace) -> None:
    artefacts.ensure(artefacts.KUBERNETES, artefacts.COREDNS, artefacts.PAUSE, artefacts.HELM)


def build_images(options: argparse.Namespace) -> None:
    built = images.build(options.name)
    if context.chosen():
        context.load(context.chosen(), built)
    elif node.running():
        images.load(built)


def load(options: argparse.Namespace) -> None:
    if context.chosen():
        context.load(context.chosen(), options.image)
        return
    if not node.running():
        raise shell.ClusterError("no local cluster runs: hack/cluster up")
    images.load(options.image)


def enter(options: argparse.Namespace) -> int:
    return node.enter(options.words or [os.environ.get("SHELL", "/bin/sh")])


def stop_program(options: argparse.Namespace) -> None:
    node.need_root()
    node.BOX.hold(options.program)


def start_program(options: argparse.Namespace) -> None:
    node.need_root()
    node.BOX.release(options.program)


def kubectl(options: argparse.Namespace) -> int:
    name = context.chosen()
    if name:
        return subprocess.run(
            [shell.need("kubectl"), f"--context={name}", *options.words], check=False
        ).returncode
    command = [str(artefacts.kubernetes("kubectl")), f"--kubeconfig={paths.KUBECONFIG}", *options.words]
    return subprocess.run(command, env=apiserver.without_proxy(), check=False).returncode


def docker_env(_: argparse.Namespace) -> None:
    found = docker.Docker.find()
    for name in ("DOCKER_HOST", "DOCKER_BUILDKIT"):
        if name in found.env:
            print(f"export {name}={found.env[name]}")
    print(f"export DOCKER={found.words[0]}")


def apiserver_up(options: argparse.Namespace) -> None:
    json.dump(apiserver.up(options.dir, options.while_pid), sys.stdout, indent=2)
    print()


def apiserver_down(options: argparse.Namespace) -> None:
    apiserver.down(options.dir)
