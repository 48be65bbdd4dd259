"""The greeter's server and client, directly and as programs."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import greeter_pb2 as pb
import greeter_pb2_grpc as pb_grpc
import greeter_session
import grpc
import pytest
from programs import GREETER, Server, environment, line_of, run_client, start_client, until

Start = Callable[..., Server]
# Not through a proxy of the machine that runs the tests.
DIRECT = (("grpc.enable_http_proxy", 0),)


@pytest.fixture
def stub(start_server: Start) -> Iterator[pb_grpc.GreeterStub]:
    with grpc.insecure_channel(start_server("a").target, options=DIRECT) as channel:
        yield pb_grpc.GreeterStub(channel)


def hello(name: str) -> pb.HelloRequest:
    return pb.HelloRequest(name=name)


def test_unary(stub: pb_grpc.GreeterStub) -> None:
    reply = stub.SayHello(hello("Ada"), timeout=10)
    assert (reply.message, reply.server, reply.number) == ("Hello, Ada!", "a", 1)


def test_server_streaming(stub: pb_grpc.GreeterStub) -> None:
    replies = list(stub.SayHellos(pb.HellosRequest(name="Ada", count=3), timeout=10))
    assert [(reply.server, reply.number) for reply in replies] == [("a", 1), ("a", 2), ("a", 3)]


def test_server_streaming_refuses_what_is_surely_a_mistake(stub: pb_grpc.GreeterStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.SayHellos(pb.HellosRequest(name="Ada", count=4_000_000_000), timeout=10))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "4000000000" in caught.value.details()
    assert "at most 100000" in caught.value.details()


def test_client_streaming(stub: pb_grpc.GreeterStub) -> None:
    reply = stub.GatherHellos(map(hello, ("Ada", "Grace")), timeout=10)
    assert (reply.message, reply.number) == ("Hello, Ada, Grace!", 2)


def test_bidirectional_greets_before_anything_is_said(stub: pb_grpc.GreeterStub) -> None:
    first_is_in = threading.Event()

    def requests() -> Iterator[pb.HelloRequest]:
        assert first_is_in.wait(10)
        yield hello("Ada")

    call = stub.Chat(requests(), timeout=20)
    assert next(call).number == 0
    first_is_in.set()
    assert [(reply.message, reply.number) for reply in call] == [("Hello, Ada!", 1)]
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("request_bytes", "expected"), [(b"", b"\x08\x01"), (b"\x0a\x12greeter.v1.Greeter", b"\x08\x01")]
)
def test_health_is_what_a_kubelet_asks(start_server: Start, request_bytes: bytes, expected: bytes) -> None:
    with grpc.insecure_channel(start_server().target, options=DIRECT) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(request_bytes, timeout=10) == expected


def test_health_of_another_service_is_unknown(start_server: Start) -> None:
    with grpc.insecure_channel(start_server().target, options=DIRECT) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x05other", timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_pod_name_names_the_server(start_server: Start) -> None:
    assert start_server("", extra={"POD_NAME": "greeter-7d9f"}).name == "greeter-7d9f"


def test_without_a_pod_the_host_and_port_name_it(start_server: Start) -> None:
    server = start_server("")
    assert server.name == f"{socket.gethostname()}:{server.target.rpartition(':')[2]}"


def test_a_taken_address_is_one_clear_error(start_server: Start) -> None:
    server = start_server()
    command = [sys.executable, str(GREETER / "server.py"), "--listen", server.target]
    second = subprocess.run(
        command, capture_output=True, text=True, timeout=30, env=environment(), check=False
    )
    assert second.returncode == 1
    assert f"--listen {server.target}" in second.stderr
    assert "Traceback" not in second.stderr


def test_stopping_ends_chats_with_ok_at_the_end_of_the_grace(start_server: Start) -> None:
    server = start_server("a", "--grace", "3")
    said = threading.Event()

    def requests() -> Iterator[pb.HelloRequest]:
        assert said.wait(20)
        yield hello("late")
        threading.Event().wait(20)  # the client has more to say, for longer than the grace

    with grpc.insecure_channel(server.target, options=DIRECT) as channel:
        call = pb_grpc.GreeterStub(channel).Chat(requests())
        assert next(call).number == 0
        server.terminate()
        assert "stops" in line_of(server.process)
        said.set()  # in flight during the grace: answered still
        assert [reply.number for reply in call] == [1]
        assert call.code() is grpc.StatusCode.OK
    assert server.wait() == 0


def test_stopping_refuses_new_connections_at_once(start_server: Start) -> None:
    server = start_server("a", "--grace", "20")
    held = start_client(server.target, "streams", "--count", "1", "--report", "0.05", "--json")
    try:
        until(lambda: json.loads(line_of(held))["open"] == {"a": 1}, "the chat is open")
        server.terminate()
        host, port = server.target.split(":")

        def refused() -> bool:
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:  # met the listener just as it closed
                return False
            return False

        until(refused, "connections are refused")
        assert server.process.poll() is None, "it must still hold the open chat"
    finally:
        held.kill()
        held.communicate()
    assert server.wait() == 0  # its only chat is gone: no reason to wait for the grace's end


def test_all_kinds_through_the_client(start_server: Start) -> None:
    done = run_client(start_server("a").target, "kinds", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["calls"], result["failed"]) == ({"a": 4}, 0)


def test_a_burst_is_counted_per_server(start_server: Start) -> None:
    done = run_client(start_server("a").target, "burst", "--calls", "50", "--servers", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"a +50 calls +0 streams", lines[0])
    # One of two servers idle: that is max/mean 2, though only one ever answered.
    assert "0 failed  1 of 2 servers  calls max/mean 2.00" in lines[1]


def test_streams_are_held_and_counted(start_server: Start) -> None:
    target = start_server("a").target
    client = start_client(target, "streams", "--count", "7", "--json", "--report", "0.05", "--control")
    until(lambda: json.loads(line_of(client))["open"] == {"a": 7}, "all are open")
    out, errors = client.communicate(timeout=20)  # its input ends, so it does
    assert client.returncode == 0, errors
    result = json.loads(out.splitlines()[-1])
    assert (result["open"], result["opened"], result["calls"]) == ({"a": 7}, {"a": 7}, {})
    assert result["messages"] >= 7


def test_unary_keeps_to_its_rate(start_server: Start) -> None:
    done = run_client(start_server("a").target, "unary", "--rate", "20", "--duration", "3", "--json")
    assert done.returncode == 0, done.stderr
    # Never more than the rate allows; a busy machine may give fewer.
    assert 1 <= json.loads(done.stdout.splitlines()[-1])["calls"]["a"] <= 62


def test_the_control_channel_steers_a_mix(start_server: Start) -> None:
    target = start_server("a").target
    client = start_client(target, "mix", "--count", "2", "--json", "--report", "0.05", "--control")
    assert client.stdin is not None
    for wanted in (5, 1):
        client.stdin.write(f"streams {wanted}\n")
        client.stdin.flush()
        while json.loads(line_of(client))["open"] != {"a": wanted}:
            pass  # a report each 0.05 s; the test's timeout ends this if it never comes
    client.stdin.write("dance\nrate fast\nquit\n")
    out, errors = client.communicate(timeout=20)
    assert client.returncode == 0, errors
    assert "'dance' is not a command; allowed: streams N, rate R, quit" in errors
    assert "'fast' is not allowed; allowed: 0 or more calls a second" in errors
    assert json.loads(out.splitlines()[-1])["final"] is True


def test_chats_ended_by_the_server_with_ok_are_no_failure(start_server: Start) -> None:
    server = start_server("a", "--grace", "0.1")
    client = start_client(server.target, "streams", "--count", "2", "--json", "--report", "0.05", "--control")
    assert client.stdin is not None
    until(lambda: json.loads(line_of(client))["open"] == {"a": 2}, "both are open")
    server.terminate()
    reports = iter(lambda: json.loads(line_of(client)), None)
    ended = next(report for report in reports if report["ended_by_server"])
    client.send_signal(signal.SIGTERM)
    client.communicate(timeout=20)
    assert ended["ended_by_server"] in (1, 2)
    # What failed is only the opening again, for which there is no server left.
    assert all(error.startswith("UNAVAILABLE: failed to connect") for error in ended["errors"])


class Cancelling(pb_grpc.GreeterServicer):
    """Greets, and ends the chat with CANCELLED as soon as something is said; a quiet one lives on."""

    def Chat(  # noqa: N802 - gRPC gives the name
        self, requests: Iterator[pb.HelloRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.HelloReply]:
        yield pb.HelloReply(server="cancels")
        for _ in requests:
            context.abort(grpc.StatusCode.CANCELLED, "no more of this")


def test_chats_that_are_cancelled_are_counted_and_end_nothing_else() -> None:
    """grpc.aio raises for such a status what a cancelled task gets; the client ended without its report."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    pb_grpc.add_GreeterServicer_to_server(Cancelling(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        arguments = ("streams", "--count", "3", "--json", "--report", "0.05", "--control")
        client = start_client(f"127.0.0.1:{port}", *arguments)
        until(lambda: json.loads(line_of(client))["failed"] >= 10, "chats are cancelled and opened again")
        client.send_signal(signal.SIGTERM)
        told, errors = client.communicate(timeout=20)
    finally:
        server.stop(None)
    assert not errors
    last = json.loads(told.splitlines()[-1])
    assert last["final"] is True
    assert all("CANCELLED" in error for error in last["errors"]), last["errors"]


class Ending:
    """Greets, and ends the chat with OK a moment later, whatever the client has to say."""

    async def Chat(self, requests: object, context: Any) -> None:  # noqa: N802 - gRPC gives the name
        await context.write(pb.HelloReply(server="ends"))
        await asyncio.sleep(0.003)


def test_a_write_as_a_chat_ends_does_not_hide_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc.aio says INTERNAL then (github.com/grpc/grpc/issues/36066): a demo failed because of it."""
    monkeypatch.setattr(greeter_session, "BEAT_S", 0.0)  # so that there is always one

    async def many_chats() -> greeter_session.Counts:
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            Ending().Chat, pb.HelloRequest.FromString, pb.HelloReply.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("greeter.v1.Greeter", {"Chat": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        session = greeter_session.Session(rate=0, calls=greeter_session.ENDLESS, streams=10, duration=60)
        running = asyncio.create_task(session.run(f"127.0.0.1:{port}"))
        while session.counts.ended_by_server + session.counts.failed < 300 and not running.done():
            await asyncio.sleep(0.01)
        session.stop()
        await running
        await server.stop(None)
        return session.counts

    counts = asyncio.run(many_chats())
    assert not counts.errors
    assert counts.ended_by_server >= 300


def test_a_failed_call_shows_in_the_exit_status() -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        done = run_client(f"127.0.0.1:{taken.getsockname()[1]}", "burst", "--calls", "2")
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "error: UNAVAILABLE" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["burst", "--calls", "0"], "argument --calls: '0' is not allowed; allowed: 1 to"),
        (["burst", "--rate", "5"], "--rate does not apply to burst"),
        (["unary", "--rate", "nan"], "argument --rate: 'nan' is not allowed; allowed: 0 or more"),
        (["streams", "--count", "-1"], "argument --count: '-1' is not allowed; allowed: 0 to 10000"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_bad_arguments_are_one_clear_error(arguments: list[str], message: str) -> None:
    done = run_client("127.0.0.1:1", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
