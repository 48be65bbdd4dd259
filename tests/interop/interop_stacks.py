"""The stacks: how each one's programs are built and started, and which cases they know.

grpc-go and grpc-java ship their official interop programs (grpc-go's server listens on every address, so
`go/server` serves the same official service on loopback). For C-core's Python, grpc-js and tonic, whose
packages ship none, the service and the client are written here after the public test descriptions.
"""

from __future__ import annotations

import shutil
import socket
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import interop_build
import interop_programs as programs
from interop_build import HERE, PROTO, Recipe
from interop_programs import Command

# A single iteration of the soak cases may be slow on a shared machine; that is not what they are for.
SOAK_SLOWEST_MS: Final = 5000


class Stack(NamedTuple):
    """One stack under test. `server` gets the build, a folder of its own and the port to listen on at
    127.0.0.1; `client` the build, the address to dial and the case to run."""

    name: str
    recipe: Recipe
    client: Callable[[Path, str, int, str], Command]
    client_cases: frozenset[str]
    server: Callable[[Path, Path, int], Command] | None = None
    server_features: frozenset[str] = frozenset()


# -- the cases ---------------------------------------------------------------------------------------

KINDS: Final = ("large_unary", "client_streaming", "server_streaming", "ping_pong")
COMMON: Final = (
    "empty_unary",
    *KINDS,
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "custom_metadata",
    "rpc_soak",
    "channel_soak",
)
# What a case wants from the server beyond the common service. client_compressed_* begins with a probe that
# only a server can answer which sees whether a message was compressed; *_noprobe is the same without it.
NEEDS: Final[Mapping[str, str]] = {
    "client_compressed_unary": "sees compression",
    "client_compressed_streaming": "sees compression",
    "client_compressed_unary_noprobe": "decompresses",
    "client_compressed_streaming_noprobe": "decompresses",
    "server_compressed_unary": "compresses unary",
    "server_compressed_streaming": "compresses streams",
    "orca_per_rpc": "orca",
}
# Left out, with the reason:
#   cacheable_unary          needs a caching proxy that answers GET
#   orca_oob                 one server's report must come back on another stream: two endpoints serve here
#   pick_first_unary         all calls must reach one server, the opposite of what a balancer is for
#   *_creds, oauth2_*, alts  need cloud credentials
ORDER: Final = (*COMMON, *NEEDS, "very_large_request", "concurrent_ping_pong")


def cases(client: Stack, server: Stack) -> list[str]:
    """The cases that this client knows and this server can serve, in ORDER."""
    return [
        case
        for case in ORDER
        if case in client.client_cases and (case not in NEEDS or NEEDS[case] in server.server_features)
    ]


# -- Go ----------------------------------------------------------------------------------------------


def _build_go(target: Path) -> None:
    interop_build.copy_sources(GO_RECIPE, target)
    packages = (
        "./server",
        "./h2c",
        "google.golang.org/grpc/interop/client",
        "github.com/summerwind/h2spec/cmd/h2spec",
    )
    # Module mode with the checked-in sums only: nothing is resolved anew.
    environment = {"GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0"}
    interop_build.run(("go", "build", "-o", f"{target}/bin/", *packages), target, environment)


GO_RECIPE: Final = Recipe("go", ("go",), (("go", "version"),), (HERE / "go",), _build_go)


def _official_flags(host: str, port: int, case: str) -> tuple[str, ...]:
    """The flags that the official clients share."""
    # Only this balancer reports what orca_per_rpc compares.
    policy = '{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}'
    return (
        f"--server_host={host}",
        f"--server_port={port}",
        f"--test_case={case}",
        "--soak_overall_timeout_seconds=30",
        f"--soak_per_iteration_max_acceptable_latency_ms={SOAK_SLOWEST_MS}",
        *((f"--service_config_json={policy}",) if case == "orca_per_rpc" else ()),
    )


def _go_client(build: Path, host: str, port: int, case: str) -> Command:
    return Command((str(build / "bin" / "client"), *_official_flags(host, port, case)))


GO: Final = Stack(
    name="go",
    recipe=GO_RECIPE,
    client=_go_client,
    client_cases=frozenset(COMMON) | {"orca_per_rpc"},
    server=lambda build, _folder, port: Command((str(build / "bin" / "server"), f"--port={port}")),
    server_features=frozenset({"decompresses", "orca"}),
)

# -- Java --------------------------------------------------------------------------------------------

# Short-lived programs: no optimising compiler, the serial collector, and a heap that two servers and a
# client fit beside everything else.
JAVA_FLAGS: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-Xshare:auto")
JAVA_PACKAGE: Final = "io.grpc.testing.integration"


def _build_java(target: Path) -> None:
    interop_build.copy_sources(JAVA_RECIPE, target)
    copy = ("dependency:copy-dependencies", f"-DoutputDirectory={target}/lib", "-DincludeScope=runtime")
    interop_build.run(("mvn", "-q", "-B", "-f", "pom.xml", *copy), target)
    # A JVM spends most of a short run on loading classes: keep those of one run in an archive.
    server, port = programs.start_listening(
        "java server", lambda port: _java_server(target, target, port), target / "server.log"
    )
    try:
        command = _java_client(target, programs.HOST, port, "custom_metadata", okhttp=False)
        dump = f"-XX:ArchiveClassesAtExit={_java_archive(target)}"
        interop_build.run((command.argv[0], dump, *command.argv[1:]), target)
    finally:
        server.stop()


JAVA_RECIPE: Final = Recipe(
    "java", ("java", "mvn"), (("java", "-version"),), (HERE / "java" / "pom.xml",), _build_java
)


def _java_archive(build: Path) -> Path:
    return build / "classes.jsa"


def _java(build: Path, program: str, *arguments: str, flags: tuple[str, ...] = ()) -> Command:
    main = f"{JAVA_PACKAGE}.{program}"
    return Command(
        ("java", *JAVA_FLAGS, *flags, "-cp", f"{build}/lib/*", main, "--use_tls=false", *arguments)
    )


def _java_server(build: Path, folder: Path, port: int) -> Command:
    # The official server listens on 127.0.0.1 and on the address of the machine's name; with this hosts file
    # they are the same.
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n127.0.0.1 {socket.gethostname()}\n")
    flags = (f"-Djdk.net.hosts.file={hosts}",)
    return _java(build, "TestServiceServer", f"--port={port}", "--address_type=IPV4", flags=flags)


def _java_client(build: Path, host: str, port: int, case: str, *, okhttp: bool) -> Command:
    return _java(
        build,
        "TestServiceClient",
        *_official_flags(host, port, case),
        f"--use_okhttp={'true' if okhttp else 'false'}",
    )


JAVA_CASES: Final = frozenset(COMMON) | frozenset(NEEDS) | {"very_large_request"}

JAVA: Final = Stack(
    name="java",
    recipe=JAVA_RECIPE,
    client=lambda build, host, port, case: _java_client(build, host, port, case, okhttp=False),
    client_cases=JAVA_CASES,
    server=_java_server,
    server_features=frozenset({"decompresses", "compresses unary", "orca"}),
)

# grpc-java's OkHttp transport: the same programs, another HTTP/2 implementation. It ignores our
# SETTINGS_HEADER_TABLE_SIZE, so its header blocks are the ones that must be decoded.
OKHTTP: Final = Stack(
    name="okhttp",
    recipe=JAVA_RECIPE,
    client=lambda build, host, port, case: _java_client(build, host, port, case, okhttp=True),
    client_cases=JAVA_CASES,
)

# -- Python on C-core --------------------------------------------------------------------------------

PROTOC: Final = (sys.executable, "-m", "grpc_tools.protoc")
GRPC_VERSION: Final = (
    sys.executable,
    "-c",
    "import grpc, grpc_tools, google.protobuf as p; print(grpc.__version__, p.__version__)",
)


def _build_python(target: Path) -> None:
    out = (f"-I{PROTO.parent}", f"--python_out={target}", f"--grpc_python_out={target}")
    interop_build.run((*PROTOC, *out, PROTO.name), PROTO.parent)


PYTHON_RECIPE: Final = Recipe("python", (), (GRPC_VERSION,), (PROTO,), _build_python)

OWN_CASES: Final = (frozenset(COMMON) | frozenset(NEEDS) | {"concurrent_ping_pong"}) - {
    "orca_per_rpc",
    "client_compressed_streaming",  # the one case that wants a probe on a stream: the Java clients run it
}


def _python(build: Path, program: str, *arguments: str) -> Command:
    argv = (sys.executable, str(HERE / "python" / program), *arguments)
    return Command(argv, {"PYTHONPATH": str(build)})


PYTHON: Final = Stack(
    name="python",
    recipe=PYTHON_RECIPE,
    client=lambda build, host, port, case: _python(
        build, "client.py", f"--server_host={host}", f"--server_port={port}", f"--test_case={case}"
    ),
    client_cases=OWN_CASES,
    server=lambda build, _folder, port: _python(build, "server.py", f"--port={port}"),
    server_features=frozenset({"decompresses", "compresses unary", "compresses streams"}),
)

# -- grpc-js -----------------------------------------------------------------------------------------


def _build_node(target: Path) -> None:
    interop_build.copy_sources(NODE_RECIPE, target)
    interop_build.run(("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"), target)


NODE_RECIPE: Final = Recipe(
    "node", ("node", "npm"), (("node", "--version"),), (HERE / "node", PROTO), _build_node
)


def _node(build: Path, program: str, *arguments: str) -> Command:
    return Command(("node", str(build / program), *arguments), {"INTEROP_PROTO": str(build / PROTO.name)})


NODE: Final = Stack(
    name="node",
    recipe=NODE_RECIPE,
    client=lambda build, host, port, case: _node(
        build, "client.js", f"--server_host={host}", f"--server_port={port}", f"--test_case={case}"
    ),
    client_cases=OWN_CASES,
    server=lambda build, _folder, port: _node(build, "server.js", f"--port={port}"),
    server_features=frozenset({"decompresses"}),
)

# -- tonic -------------------------------------------------------------------------------------------


def _build_tonic(target: Path) -> None:
    interop_build.copy_sources(TONIC_RECIPE, target)
    # prost wants a protoc program; grpcio-tools has one inside.
    protoc = target / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec {" ".join(PROTOC)} "$@"\n')
    protoc.chmod(protoc.stat().st_mode | stat.S_IXUSR)
    environment = {
        "PROTOC": str(protoc),
        "INTEROP_PROTO": str(target / PROTO.name),
        # Shared by all builds of this crate, so that a change to the client does not rebuild tonic.
        "CARGO_TARGET_DIR": str(interop_build.cache_root() / "tonic.target"),
    }
    interop_build.run(("cargo", "build", "--quiet"), target, environment)
    (target / "bin").mkdir()
    for program in ("client", "server"):
        shutil.copy2(Path(environment["CARGO_TARGET_DIR"]) / "debug" / program, target / "bin" / program)


TONIC_RECIPE: Final = Recipe(
    "tonic", ("cargo",), (("rustc", "--version"),), (HERE / "tonic", PROTO), _build_tonic
)

TONIC: Final = Stack(
    name="tonic",
    recipe=TONIC_RECIPE,
    client=lambda build, host, port, case: Command(
        (
            str(build / "bin" / "client"),
            f"--server_host={host}",
            f"--server_port={port}",
            f"--test_case={case}",
        )
    ),
    # tonic's own deadline covers the wait for the response's headers and nothing after them.
    client_cases=OWN_CASES - {"timeout_on_sleeping_server"},
    server=lambda build, _folder, port: Command((str(build / "bin" / "server"), f"--port={port}")),
    server_features=frozenset({"decompresses", "sees compression", "compresses unary", "compresses streams"}),
)

CLIENTS: Final[Mapping[str, Stack]] = {s.name: s for s in (GO, PYTHON, JAVA, OKHTTP, NODE, TONIC)}
SERVERS: Final[Mapping[str, Stack]] = {name: s for name, s in CLIENTS.items() if s.server is not None}

# Each of these is a client once and a server once, all four kinds of call.
SMOKE_PAIRS: Final = (("go", "python"), ("python", "java"), ("java", "node"), ("node", "go"))


def smoke(client: str, server: str, case: str) -> bool:
    return (client, server) in SMOKE_PAIRS and case in KINDS
