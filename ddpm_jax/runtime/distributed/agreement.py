"""What the processes of a run agree on; in a run of one process every agreement is immediate."""

import functools
import hashlib
import importlib.metadata
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.channel import Channel
from ddpm_jax.runtime.distributed.server import Server

T = TypeVar("T")


class SharedError(UserError):
    """A mistake of the user that every process raises."""


class Group:
    """The processes that this process has joined."""

    def __init__(self):
        self.channel: Channel | None = None
        self.server: Server | None = None
        self.leaving = threading.Event()
        self.topics: dict[str, int] = {}


group = Group()


def is_first() -> bool:
    """Whether this is process 0, which prints, draws and writes."""
    return group.channel is None or group.channel.process == 0


def is_alone() -> bool:
    """Whether there is no other process."""
    return group.channel is None


def rank_and_count() -> tuple[int, int]:
    """Returns this process's number and the number of processes: (0, 1) for one process."""
    channel = group.channel
    return (0, 1) if channel is None else (channel.process, channel.count)


def allgather(topic: str, value: Any) -> list[Any]:
    """Returns the values that all processes gave for a topic, in their order; all must call it.

    `value` must be JSON. Calls for one topic must come in the same order on every process. Several
    threads may wait at once, each for its own topic.
    """
    channel = group.channel
    if channel is None:
        return [value]
    count = group.topics[topic] = group.topics.get(topic, 0) + 1
    channel.submit(f"{topic} {count}", value)
    return channel.collect(f"{topic} {count}")


def broadcast_from_first(make: Callable[[], T], topic: str = "first") -> T:
    """Calls `make` on process 0 only, and returns its result on every process.

    The result must be JSON. If `make` raises UserError, every process raises it.
    """
    if is_alone():
        return make()
    outcome: Any = None
    if is_first():
        try:
            outcome = {"value": make()}
        except UserError as error:
            outcome = {"error": str(error)}
    answer = allgather(topic, outcome)[0]
    if "error" in answer:
        raise SharedError(answer["error"])
    return answer["value"]


def compare(settings: dict[str, Any]) -> None:
    """Raises UserError on every process if a setting differs between processes; it names the first.

    All processes must call it.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    # Settings rarely differ, so a thousand hosts send only a digest.
    if len(set(allgather("digest", hashlib.sha256(text.encode()).hexdigest()))) == 1:
        return
    rows = allgather("settings", json.loads(text))
    hosts = [] if group.channel is None else group.channel.hosts
    for name in dict.fromkeys(name for row in rows for name in row):
        who: dict[str, list[str]] = {}
        for process, row in enumerate(rows):
            value = json.dumps(row[name]) if name in row else "not set"
            who.setdefault(value, []).append(f"process {process} ({hosts[process]})")
        if len(who) > 1:
            values = ", and ".join(f"{value} on {_some(names)}" for value, names in who.items())
            raise SharedError(f"{name} is {values}; start all processes with the same")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@functools.cache
def versions() -> dict[str, str]:
    """Returns versions and a digest of this package's source: the same result means the same code.

    The first call, at a run's start, decides: the files may change later.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    # Editors leave links and files of their own beside what they edit.
    sources = (path for path in root.rglob("*.py") if path.is_file() and path.name[0] != ".")
    for path in sorted(sources):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {"the digest of ddpm_jax's source": digest.hexdigest()[:12]}


_PACKAGES = ("ddpm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class BarrierAborted(Exception):
    """Another process aborted the job that this process shares with it."""

    def __init__(self):
        super().__init__("another process aborted")


class AbortableBarriers:
    """Barriers of background jobs; a process whose job fails releases all that wait.

    Every process begins the same jobs in the same order. A job begins when the last one has ended
    on all processes.
    """

    def __init__(self, topic: str):
        assert group.channel is not None, "a process alone has nobody to wait for"
        self._channel = group.channel
        # Another thread may call `wait`. The numbers go on in the topic's next AbortableBarriers.
        self._counts, self._topic = group.topics, f"{topic} aborted"
        self._aborted = 0

    def _on_abort(self, job: int) -> None:
        self._aborted = max(self._aborted, job)

    @property
    def _job(self) -> int:
        return self._counts.get(self._topic, 0)

    def begin(self) -> None:
        """Begins the next job."""
        # A topic has one subscriber, and the job before may have been another object's.
        self._channel.subscribe(self._topic, self._on_abort)
        self._counts[self._topic] = self._job + 1

    def abort(self) -> None:
        """Ends this job's waits on every process, those to come as well."""
        self._channel.broadcast(self._topic, self._job)

    def wait(self, key: str) -> None:
        """Waits until all processes reach this barrier; raises BarrierAborted if one aborted."""
        job = self._job
        barrier = f"{self._topic} {job} {key}"
        self._channel.submit(barrier, None)
        if not self._channel.met(barrier, unless=lambda: self._aborted >= job):
            raise BarrierAborted


class StopAgreement:
    """Agrees on one point at which all processes stop, when one of them asks for it.

    Every process calls `reached_stop_point` at the same points in the same order. A process that
    hears the request proposes its own next point, and all stop at the latest of the proposals. So
    no process has passed that point, and none waits for another but for one exchange of messages.
    """

    def __init__(self, on_request: Callable[[int], None]):
        """`on_request` is called once, in the background, with the value of the first request."""
        self._on_request = on_request
        self._changed = threading.Condition()
        self._point = 0
        self._proposed: int | None = None
        self._agreed: int | None = None
        assert group.channel is not None, "a process alone has nobody to agree with"
        self._channel = group.channel
        self._channel.subscribe("stop", self._propose)

    def request(self, value: int) -> None:
        """Asks all processes to stop; `value` says why. Safe in a signal handler."""
        self._channel.broadcast("stop", value)

    def _propose(self, value: int) -> None:
        with self._changed:
            if self._proposed is not None:
                return
            self._proposed = self._point + 1
        self._on_request(value)
        # This thread receives the answer, so another one must wait for it.
        threading.Thread(target=self._agree, args=(self._proposed,), daemon=True).start()

    def _agree(self, proposed: int) -> None:
        self._channel.submit("stop point", proposed)
        agreed = max(self._channel.collect("stop point"))
        with self._changed:
            self._agreed = agreed
            self._changed.notify_all()

    def reached_stop_point(self) -> bool:
        """Counts one more point; returns whether it is the agreed point or a later one."""
        with self._changed:
            self._point += 1
            if self._proposed is None or self._point < self._proposed:
                return False
            self._changed.wait_for(lambda: self._agreed is not None)
            return self._agreed is not None and self._point >= self._agreed
