"""List, then watch: one collection of the API server kept as it is there. Pure: a table of states.

    listing wanted -> listing -> watch wanted -> watching -> (ended: watch wanted; 410: listing wanted)

Whoever drives it asks `wanted` for the path to GET now, calls `started` when it did, and hands it the answer
as an Exchange. What is known stays in force through every fault, until a complete list replaces it.
Source: "Efficient detection of changes" in the Kubernetes API concepts; KEP-956 (bookmarks).
"""

from __future__ import annotations

import json
import math
import random as random_module
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from sidecar.discovery.backoff import MAX_SECONDS, Backoff
from sidecar.discovery.catalog import FaultLog, summary
from sidecar.discovery.slices import MalformedError, shown
from sidecar.discovery.text import Lines, TooLargeError, message_of, name_of, quote

# How long one watch is asked to last, as client-go has it; drawn anew, so that watches do not end together.
WATCH_SECONDS: Final = (300, 600)
# The API server sends a bookmark about every minute, but promises none. After two missed ones with their
# jitter the watch is started again from where it was, which costs one request if it was well.
BOOKMARK_DEADLINE_SECONDS: Final = 150.0
# A watch that ends sooner than this counts as a failure, or a server that ends each at once would be asked
# in a tight loop.
MIN_WATCH_SECONDS: Final = 1.0
# This long without a failure, the next one is the first again.
CALM_SECONDS: Final = 2 * MAX_SECONDS
# A watch refused so often in a row may ask for a version the server does not know any more, or not yet (etcd
# restored from a backup): only a list helps.
REFUSALS_BEFORE_LIST: Final = 3
# Where no stream is free for a watch, the collection is listed this often instead.
CROWDED_RELIST_SECONDS: Final = 10.0
# etcd refuses objects above 1.5 MiB; written as JSON they grow to about twice that.
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
# 5,000 pods of one Service are 50 slices and about 5 MB; decoding takes some 6 times as much for a moment.
MAX_LIST_BYTES: Final = 16 * 1024 * 1024
# Enough for the Status object that explains a refusal.
MAX_REFUSAL_BYTES: Final = 16 * 1024

LIST_WANTED: Final = "list wanted"
LISTING: Final = "listing"
WATCH_WANTED: Final = "watch wanted"
WATCHING: Final = "watching"


class Parsed(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def faults(self) -> tuple[str, ...]: ...


T = TypeVar("T", bound=Parsed)


class Collection(NamedTuple):
    """What to follow: `path` without a query, and `selector`, the query parameter that chooses, quoted."""

    path: str
    selector: str
    what: str  # for people: EndpointSlices of greeter.default
    grant: str  # the RBAC rule it takes


class Counters:
    """Shared by all collections of a source."""

    def __init__(self) -> None:
        self.relists = 0
        self.events = 0
        self.malformed = 0
        self.silent_watches = 0

    def as_dict(self) -> dict[str, int]:
        return dict(self.__dict__)


class Reflector(Generic[T]):
    """An Exchange. `objects` is what is known, by name; `changed` is set when that changes, for the owner
    to clear; `listed` says whether a list was ever complete."""

    def __init__(
        self,
        collection: Collection,
        parse: Callable[[object], T],
        random: random_module.Random,
        counters: Counters,
    ) -> None:
        self.collection = collection
        self.objects: dict[str, T] = {}
        self.changed = False
        self.listed = False
        self.state = LIST_WANTED
        self.version = "0"  # what the next request starts from; 0: any, which spares the API server's etcd
        self.heard_at = math.nan  # when the API server last said something about this collection
        self.faults = FaultLog()
        self._parse = parse
        self._random = random
        self._counters = counters
        self._backoff = Backoff(random)
        self._not_before = -math.inf
        self._failed_at = -math.inf
        self._crowded_since = math.inf
        self._started_at = 0.0
        self._silences = 0
        self._status = 0
        self._retry_after = 0.0
        self._refused_before = False
        self._body: list[bytes] = []
        self._size = 0
        self._lines = Lines(MAX_EVENT_BYTES)

    # What it wants

    def wanted(self, now: float) -> str | None:
        """The path to GET now, or None."""
        if now < self._not_before:
            return None
        if self.state == WATCH_WANTED and now >= self._crowded_since + CROWDED_RELIST_SECONDS:
            self.state, self.version = LIST_WANTED, ""
        if self.state == LIST_WANTED:
            return self._list_path()
        if self.state == WATCH_WANTED:
            return self._watch_path()
        return None

    def watching(self) -> bool:
        """Whether the API server has taken the watch up: what is known is what is so."""
        return self.state == WATCHING and self._status == 200

    def wants_watch(self) -> bool:
        return self.state == WATCH_WANTED

    def crowded(self, now: float) -> None:
        """What it wanted could not be asked: no stream was free."""
        if self._crowded_since == math.inf or now >= self._crowded_since + CROWDED_RELIST_SECONDS:
            self._crowded_since = now

    def started(self, now: float) -> None:
        """What `wanted` said was asked."""
        self.state = LISTING if self.state == LIST_WANTED else WATCHING
        self._crowded_since = math.inf
        self._started_at = now
        self._status = 0
        self._body, self._size = [], 0
        self._lines = Lines(MAX_EVENT_BYTES)

    def silent(self, now: float) -> bool:
        """Whether a watch has been silent for too long: it is over then, and is to be cancelled."""
        if not self.watching() or now < self._silent_at():
            return False
        self._counters.silent_watches += 1
        self._silences += 1
        self.state = WATCH_WANTED
        if self._silences > 1:  # the one started in its place heard nothing either: compare with a list
            self.state, self.version = LIST_WANTED, ""
        return True

    def deadline(self) -> float:
        """When to ask `wanted` or `silent` again, if nothing else happens."""
        if self.state == WATCHING:
            return self._silent_at() if self._status == 200 else math.inf
        if self.state == LISTING:
            return math.inf
        crowded = self._crowded_since + CROWDED_RELIST_SECONDS
        return max(self._not_before, crowded if crowded != math.inf else -math.inf)

    # What the API server says

    def answered(self, status: int, retry_after: float, now: float) -> None:
        self._status = status
        self._retry_after = retry_after
        if status == 200:
            self.heard_at = now
            self._refused_before = False
            if self.state == WATCHING:
                self.faults.clear()

    def body(self, data: bytes, now: float) -> bool:
        if self.state == WATCHING and self._status == 200:
            return self._watch_data(data, now)
        self._size += len(data)
        limit = MAX_LIST_BYTES if self._status == 200 else MAX_REFUSAL_BYTES
        if self._size > limit and self._status == 200:
            self._fail(LIST_WANTED, f"list of more than {limit} bytes, the most that is read", now)
            return False
        if self._size <= limit:
            self._body.append(data)
        return True

    def ended(self, now: float) -> None:
        if self._status != 200:
            self._refused(now)
        elif self.state == WATCHING:
            self._watch_over("", now)
        else:
            self._list_complete(now)

    def broken(self, reason: str, connection: bool, now: float) -> None:
        """A lost connection has a backoff of its own; then this goes on as soon as there is another."""
        if self.state == WATCHING and (connection or self._status == 200):
            self._watch_over("" if connection else reason, now, at_once=connection)
        elif connection:
            self.state = LIST_WANTED if self.state == LISTING else WATCH_WANTED
        else:
            self._fail(LIST_WANTED if self.state == LISTING else WATCH_WANTED, reason, now)

    def cut_off(self) -> None:
        """There is no connection. Says nothing new, unless `broken` was kept from saying it by a bug of ours."""
        if self.state == LISTING:
            self.state = LIST_WANTED
        elif self.state == WATCHING:
            self.state = WATCH_WANTED

    # Lists

    def _list_path(self) -> str:
        version = "&resourceVersion=0" if self.version == "0" else ""
        return f"{self.collection.path}?{self.collection.selector}{version}"

    def _list_complete(self, now: float) -> None:
        try:
            top = json.loads(b"".join(self._body))
            version = top["metadata"]["resourceVersion"]
            items = top.get("items") or []
            if not isinstance(version, str) or not version or not isinstance(items, list):
                raise MalformedError("no resourceVersion, or items is no list")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            self._counters.malformed += 1
            self._fail(LIST_WANTED, f"the list is malformed: {type(error).__name__}: {error}", now)
            return
        finally:
            self._body = []
        found: dict[str, T] = {}
        for item in items:
            self._take(item, found)
        if self.listed:
            self._counters.relists += 1
        if found != self.objects or not self.listed:
            self.changed = True
        self.objects, self.listed, self.version = found, True, version
        self.state, self.heard_at, self._silences = WATCH_WANTED, now, 0
        self.faults.clear()
        self._calm(now)

    def _take(self, item: object, into: dict[str, T]) -> None:
        """Put one object in place. One that is wholly wrong leaves what was known of it."""
        try:
            parsed = self._parse(item)
        except (
            Exception
        ) as error:  # MalformedError; by a bug of ours any: the other objects are not to suffer
            self._counters.malformed += 1
            name = name_of(item)
            what = str(error)
            if not isinstance(error, MalformedError):
                what = f"{self.collection.what}: internal error at {shown(name)}: {type(error).__name__}: {error}"
            self.faults.report(f"{what}; what was known of it stays in force")
            if name in self.objects:
                into[name] = self.objects[name]
            return
        if parsed.faults:
            self._counters.malformed += len(parsed.faults)
            self.faults.report(f"{summary(parsed.faults)}; left out")
        into[parsed.name] = parsed

    # Watches

    def _watch_path(self) -> str:
        seconds = self._random.randint(*WATCH_SECONDS)
        return (
            f"{self.collection.path}?{self.collection.selector}&watch=1&resourceVersion={quote(self.version)}"
            f"&allowWatchBookmarks=true&timeoutSeconds={seconds}"
        )

    def _silent_at(self) -> float:
        return max(self._started_at, self.heard_at) + BOOKMARK_DEADLINE_SECONDS

    def _watch_data(self, data: bytes, now: float) -> bool:
        try:
            lines = self._lines.feed(data)
        except TooLargeError as error:
            self._relist(f"watch: {error}", now)
            return False
        for line in lines:
            try:
                event = json.loads(line)
                kind, item = event["type"], event["object"]
                version = item["metadata"].get("resourceVersion") if kind != "ERROR" else ""
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                self._counters.malformed += 1
                self._relist(f"watch: malformed event {shown(line[:60])}: {type(error).__name__}", now)
                return False
            if kind == "ERROR":
                self._error_event(item, now)
                return False
            self.heard_at, self._silences = now, 0
            if isinstance(version, str) and version:
                self.version = version
            self._apply(kind, item)
        return True

    def _apply(self, kind: object, item: Mapping[str, Any]) -> None:
        if kind == "BOOKMARK":
            return
        self._counters.events += 1
        name = name_of(item)
        before = self.objects.get(name)
        if kind == "DELETED":
            self.objects.pop(name, None)
        elif kind in ("ADDED", "MODIFIED"):
            self._take(item, self.objects)
        else:
            self._counters.malformed += 1
            self.faults.report(f"{self.collection.what}: watch: event of unknown type {shown(kind)}")
        if self.objects.get(name) != before:
            self.changed = True

    def _error_event(self, item: object, now: float) -> None:
        """The last event of a watch that failed: a Status. 410 and anything else: what is known must be
        compared with a list."""
        code = item.get("code") if isinstance(item, dict) else None
        message = item.get("message") if isinstance(item, dict) else None
        if code == 410:
            self._gone(now)
        else:
            self._relist(f"watch: error event {shown(code)}: {shown(message)}", now)

    def _gone(self, now: float) -> None:
        """410: the version is older than what the server keeps. Normal after a long absence: list at once,
        from the newest state; but only once in a row."""
        self.state, self.version = LIST_WANTED, ""
        self._not_before = now if self._backoff.attempts == 0 else now + self._backoff.next()
        self._backoff.attempts = max(1, self._backoff.attempts)
        self._failed_at = now

    def _watch_over(self, reason: str, now: float, at_once: bool = False) -> None:
        """It ended, as each does in time, or was cut: go on from the last version."""
        self.state = WATCH_WANTED
        if now - self._started_at >= MIN_WATCH_SECONDS:
            self._backoff.reset()
        if at_once or now - self._started_at >= MIN_WATCH_SECONDS:
            self._not_before = now
        else:
            self._fail(WATCH_WANTED, reason or "watch: ended as soon as it began", now)

    # Faults

    def _calm(self, now: float) -> None:
        """A complete list alone does not end the backoff, or a server that lists well and fails each watch
        would be asked in a tight loop; a long time without failure does."""
        if now - self._failed_at >= CALM_SECONDS:
            self._backoff.reset()

    def _relist(self, reason: str, now: float) -> None:
        self.version = ""
        self._fail(LIST_WANTED, reason, now)

    def _fail(self, state: str, reason: str, now: float, at_least: float = 0.0) -> None:
        self.state = state
        self._body = []
        self._failed_at = now
        self._not_before = now + self._backoff.next(at_least)
        self.faults.report(f"{self.collection.what}: {reason}")

    def _refused(self, now: float) -> None:
        state = LIST_WANTED if self.state == LISTING else WATCH_WANTED
        status, message = self._status, message_of(b"".join(self._body))
        self._body = []
        if status == 410:
            self._gone(now)
            return
        reason = f"HTTP {status}: {message}"
        if status == 403:
            reason += f"; missing RBAC rule: {self.collection.grant}"
        if status == 401 and not self._refused_before:
            # The token may just have been replaced: it is read again for the next request, made at once.
            self._refused_before = True
            self.state, self._not_before = state, now
            self.faults.report(f"{self.collection.what}: {reason}")
            return
        if state == WATCH_WANTED and self._backoff.attempts >= REFUSALS_BEFORE_LIST:
            state, self.version = LIST_WANTED, ""
        self._fail(state, reason, now, self._retry_after)
