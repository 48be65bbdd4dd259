"""Bugs planted into the code on its way in, each a line or two that somebody could get wrong: all must be found.

`plant` comes before the first import of `sidecar`, and only the interpreted build can be changed so.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple


class Bug(NamedTuple):
    module: str
    right: str  # stands in the module once
    wrong: str


BUGS = {
    "a call that a lost backend may have begun is sent again": Bug(
        "sidecar.splice.service",
        "        if backend is not None:\n            backend.stats.failed += 1\n",
        "        if stream.phase == states.SENT:\n            self.refused(stream, why)\n            return\n",
    ),
    "a call that its backend has reset is sent again": Bug(
        "sidecar.splice.service",
        "if code == frames.REFUSED_STREAM and stream.phase == states.SENT:",
        "if stream.phase == states.SENT:",
    ),
    "GOAWAY's last stream counts as not taken": Bug(
        "sidecar.splice.upstream",
        "s.up_id > last_stream_id",
        "s.up_id >= last_stream_id",
    ),
    "an END_STREAM behind held DATA is lost": Bug(
        "sidecar.splice.peer",
        "        if half.held is None and half.state == states.ENDED:\n"
        "            self.pass_end(stream, half)\n        lend_if_low",
        "        lend_if_low",
    ),
    "credit is counted twice": Bug(
        "sidecar.splice.peer",
        "        half.sink_window += increment\n",
        "        half.sink_window += increment * 2\n",
    ),
    "a fall of the initial window is overlooked": Bug(
        "sidecar.wire.connection",
        "        if self.peer_initial_window != before:\n",
        "        if self.peer_initial_window > before:\n",
    ),
    "DATA overtakes DATA that is held": Bug(
        "sidecar.splice.stream",
        "            join(self.held, payload, size)\n",
        "            self.held.insert(0, payload)\n",
    ),
    "the slot of a cancelled stream is not released": Bug(
        "sidecar.splice.service",
        "        stream.response.source = None\n        self._release(stream)\n",
        "        stream.response.source = None\n"
        "        if stream.grpc_status != replies.CANCELLED:\n            self._release(stream)\n",
    ),
    "a cancellation is not passed on": Bug(
        "sidecar.splice.service",
        "            up.reset(stream.up_id, code)\n            up.forget(stream)\n",
        "            up.forget(stream)\n",
    ),
    "what waits for a backend is forgotten when it backs off": Bug(
        "sidecar.splice.service",
        "        self._balancer.suspend(backend)\n        for stream in backend.take_pending():\n"
        "            self._pick_again(stream)\n",
        "        self._balancer.suspend(backend)\n        backend.take_pending()\n",
    ),
    "a backend that left keeps its idle connection": Bug(
        "sidecar.splice.backend",
        "            upstream.draining = True\n            upstream.close_if_idle()\n",
        "            upstream.draining = True\n",
    ),
    "a drain cuts the streams it should let end": Bug(
        "sidecar.splice.downstream",
        "        if leaving and self.streams.count() == 0:\n",
        "        if leaving:\n",
    ),
    "picks go on from the wrong count": Bug(
        "sidecar.balance.picker",
        "        if count < self._lowest:\n            self._lowest = count\n",
        "",
    ),
    "a slice replaces the others": Bug(
        "sidecar.discovery.kubernetes",
        "        slices = [s for s in one.slices.objects.values() if s.service == one.name]\n",
        "        slices = [s for s in one.slices.objects.values() if s.service == one.name][-1:]\n",
    ),
    "an endpoint that does not say ready is left out": Bug(
        "sidecar.discovery.slices",
        'conditions.get("ready"), f"{what}.conditions.ready", True)',
        'conditions.get("ready"), f"{what}.conditions.ready", False)',
    ),
    "a call without an endpoint is answered too early": Bug(
        "sidecar.splice.service",
        "        stream.expires = now + QUEUE_TIMEOUT\n",
        "        stream.expires = now + QUEUE_TIMEOUT / 2\n",
    ),
}


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, bug: Bug) -> None:
        super().__init__(name, path)
        self._bug = bug

    def get_code(self, fullname: str) -> CodeType:
        text = Path(self.path).read_text()
        if text.count(self._bug.right) != 1:
            raise ImportError(
                f"{self.path}: the line to be spoilt stands there {text.count(self._bug.right)} times"
            )
        return compile(text.replace(self._bug.right, self._bug.wrong), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._bug.module or not path:
            return None
        source = str(Path(path[0], fullname.rpartition(".")[2] + ".py"))
        return importlib.util.spec_from_file_location(
            fullname, source, loader=_Loader(fullname, source, self._bug)
        )


def plant(name: str) -> None:
    bug = BUGS[name]
    assert bug.module not in sys.modules, f"{bug.module} is imported already"
    import sidecar  # its own finder stands in front of all others

    assert sidecar.BUILD_ENV
    sys.meta_path.insert(0, _Finder(bug))
