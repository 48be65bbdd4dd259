"""Making and reading sockets: listeners, dials, the original destination of a redirected connection."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
import struct
import sys
from typing import Final, NamedTuple

# Linux's SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST; the socket module does not name them.
_ORIGINAL_DST: Final = 80
_SOCKADDR_IN_SIZE: Final = 16
_SOCKADDR_IN6_SIZE: Final = 28
# A peer that acknowledges nothing for so long is dead (RFC 5482). It finds a vanished pod without PINGs, of which
# servers take few; half of the 30 s in which such a pod's calls must end, for the kernel rounds up to a retry.
USER_TIMEOUT_MS: Final = 15_000
# Keep-alive finds the same on a connection with nothing in flight.
KEEPALIVE_IDLE_S: Final = 10
KEEPALIVE_INTERVAL_S: Final = 5
KEEPALIVE_PROBES: Final = 3
# Between two sockets of one machine there is no congestion, and a node's default may pace (bbr): a timer and a softirq
# for each piece. Linux always has this one and lets anybody use it.
LOCAL_CONGESTION: Final = b"reno"
BACKLOG: Final = 1024
# Files the process would have: 10,000 clients, twice 4,096 relayed connections, 8 to each of 1,000 endpoints.
FILES_WANTED: Final = 32_768
# What accept says when there is nothing to accept with.
OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


# linux/tcp.h, struct tcp_info: as much of it as is read, and where things stand.
_TCP_INFO_SIZE: Final = 28
_TCP_INFO_RETRANSMITS: Final = 2
_TCP_INFO_UNACKED: Final = 24


class Destination(NamedTuple):
    """Where a connection was meant to go."""

    host: str
    port: int


class PortInUseError(Exception):
    """A listener's port is taken or not ours to take; the message names it."""


def raise_file_limit() -> int:
    """Have as many open files as are wanted and allowed; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return FILES_WANTED if soft == resource.RLIM_INFINITY else min(soft, FILES_WANTED)


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def listen(host: str, port: int) -> socket.socket:
    """A non-blocking listener. `::` takes IPv4 too, and is 0.0.0.0 where the kernel has no IPv6.

    Raises PortInUseError. No SO_REUSEPORT: a second process must not get a share by accident.
    """
    try:
        return _listen(family_of(host), host, port)
    except OSError as error:
        if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return listen("0.0.0.0", port)  # noqa: S104 - what the caller asked for, in the one family there is
        raise PortInUseError(f"cannot listen on {host} port {port}: {error.strerror}") from None


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith(("127.", "::ffff:127."))


def tune_accepted(sock: socket.socket) -> None:
    """`tune` for a connection that a listener has accepted."""
    with contextlib.suppress(OSError):  # the peer may have closed already
        # Our own address, for that of a redirected connection's peer is the pod's.
        name = sock.getsockname()
        tune(sock, name[0] if name else "")


def tune(sock: socket.socket, host: str) -> None:
    """Small frames go out at once; a dead peer is noticed. `host`: the address that tells where the peer is."""
    with contextlib.suppress(OSError):  # the peer may have closed already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        if is_loopback(host):  # last: a sandboxed kernel may not know it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONGESTION)


def dial(host: str, port: int) -> socket.socket:
    """A non-blocking connection under way. Raises OSError if it fails at once."""
    sock = socket.socket(family_of(host), socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        tune(sock, host)
        code = sock.connect_ex((host, port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, errno.errorcode.get(code, str(code)))
    except OSError:
        sock.close()
        raise
    return sock


def connect_error(sock: socket.socket) -> str:
    """Empty once a dial has succeeded, else why it failed."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return describe(OSError(code, "")) if code else ""


def describe(error: OSError) -> str:
    """One short line for people."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error)).lower()


_REASONS: Final[dict[int, str]] = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ECONNRESET: "reset the connection",
    errno.ETIMEDOUT: "did not answer in time",
    errno.EHOSTUNREACH: "has no route to it",
    errno.ENETUNREACH: "has no route to it",
    errno.EPIPE: "closed the connection",
}


def sent_again(sock: socket.socket) -> int:
    """How often in a row what is in flight has timed out and was sent again; -1 if nothing is in flight.

    Acknowledgements come from the other machine's kernel, at once, however slow the program there is. -1 also
    where the kernel does not say.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    except OSError:
        return -1
    unacked = info[_TCP_INFO_UNACKED:_TCP_INFO_SIZE]
    if len(unacked) < 4 or not int.from_bytes(unacked, sys.byteorder):
        return -1
    return info[_TCP_INFO_RETRANSMITS]


def original_destination(sock: socket.socket) -> Destination | None:
    """Where a redirected connection was going; None for one that was not redirected."""
    try:
        local = sock.getsockname()
        if sock.family == socket.AF_INET6:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, _ORIGINAL_DST, _SOCKADDR_IN6_SIZE)
            port, packed = struct.unpack_from("!2xH4x16s", raw)
            host = socket.inet_ntop(socket.AF_INET6, packed)
        else:
            raw = sock.getsockopt(socket.SOL_IP, _ORIGINAL_DST, _SOCKADDR_IN_SIZE)
            port, packed = struct.unpack_from("!2xH4s", raw)
            host = socket.inet_ntop(socket.AF_INET, packed)
    except OSError:
        return None
    if (host, port) == (local[0], local[1]):
        return None
    return Destination(host, port)
