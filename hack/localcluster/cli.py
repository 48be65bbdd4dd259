"""The commands and their help."""
import argparse, json, sys
from pathlib import Path
from . import apiserver, shell, artefacts

def main() -> int:
    parser = argparse.ArgumentParser(prog="hack/cluster")
    sub = parser.add_subparsers(dest="command", required=True)
    for n in ("apiserver-up", "apiserver-down"):
        p = sub.add_parser(n)
        p.add_argument("--dir", type=Path, default=apiserver.ALONE)
        if n.endswith("up"):
            p.add_argument("--while-pid", type=int)
    sub.add_parser("build")
    a = parser.parse_args()
    try:
        if a.command == "apiserver-up":
            print(json.dumps(apiserver.up(a.dir, a.while_pid), indent=2))
        elif a.command == "build":
            artefacts.ensure(artefacts.KUBERNETES, artefacts.COREDNS, artefacts.PAUSE)
        else:
            apiserver.down(a.dir)
    except shell.ClusterError as e:
        print(f"cluster: {e}", file=sys.stderr)
        return 1
    return 0
