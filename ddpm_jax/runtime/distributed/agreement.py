"""What the processes of a run agree on; a process that runs alone agrees with itself at once."""

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


class Agreed(UserError):
    """A mistake that is raised on every process alike."""


class Group:
    """What this process has joined."""

    def __init__(self):
        self.channel: Channel | None = None
        self.server: Server | None = None
        self.leaving = threading.Event()
        self.topics: dict[str, int] = {}


group = Group()


def first() -> bool:
    """Whether this process is the one that prints, draws and writes."""
    return group.channel is None or group.channel.process == 0


def alone() -> bool:
    """Whether there is no other process."""
    return group.channel is None


def rank() -> tuple[int, int]:
    """This process's number and how many there are: 0 of 1 for a process alone."""
    channel = group.channel
    return (0, 1) if channel is None else (channel.process, channel.count)


def gather(topic: str, value: Any) -> list[Any]:
    """Returns what each process gave for a topic, in their order; all must call it.

    `value` is what JSON takes. Calls for one topic must come in the same order everywhere; for
    different topics several threads may wait at once.
    """
    channel = group.channel
    if channel is None:
        return [value]
    count = group.topics[topic] = group.topics.get(topic, 0) + 1
    channel.put(f"{topic} {count}", value)
    return channel.get(f"{topic} {count}")


def first_says(make: Callable[[], T], topic: str = "first") -> T:
    """Returns on every process what `make` gave on process 0, which alone calls it.

    What it gives must be what JSON takes. Its UserError is raised on every process.
    """
    if alone():
        return make()
    said: Any = None
    if first():
        try:
            said = {"value": make()}
        except UserError as error:
            said = {"error": str(error)}
    answer = gather(topic, said)[0]
    if "error" in answer:
        raise Agreed(answer["error"])
    return answer["value"]


def compare(settings: dict[str, Any]) -> None:
    """Raises UserError on every process, naming the first setting that is not the same on all."""
    text = json.dumps(settings, sort_keys=True, default=str)
    # Rarely do they differ: a digest is all that a thousand hosts need to send.
    if len(set(gather("digest", hashlib.sha256(text.encode()).hexdigest()))) == 1:
        return
    rows = gather("settings", json.loads(text))
    hosts = [] if group.channel is None else group.channel.hosts
    for name in dict.fromkeys(name for row in rows for name in row):
        who: dict[str, list[str]] = {}
        for process, row in enumerate(rows):
            value = json.dumps(row[name]) if name in row else "not set"
            who.setdefault(value, []).append(f"process {process} ({hosts[process]})")
        if len(who) > 1:
            said = ", and ".join(f"{value} on {_some(names)}" for value, names in who.items())
            raise Agreed(f"{name} is {said}; start all processes with the same")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@functools.cache
def versions() -> dict[str, str]:
    """Versions, and a digest of this package's source: two of one answer run the same code.

    As they are when first asked for, at a run's start: later the files may be others.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return found | {"the digest of ddpm_jax's source": digest.hexdigest()[:12]}


_PACKAGES = ("ddpm_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class GaveUp(Exception):
    """Another process gave up what this one works on with it."""

    def __init__(self):
        super().__init__("another process gave up")


class Barriers:
    """Works in the background in which all processes wait for each other, until one gives up.

    Every process begins the same works in the same order, each when all have ended the last one.
    """

    def __init__(self, topic: str):
        assert group.channel is not None, "a process alone has nobody to wait for"
        self._channel = group.channel
        # Another thread may call `wait`; and the numbers go on in the next `Barriers` of the topic.
        self._counts, self._topic = group.topics, f"{topic} given up"
        self._given_up = 0
        self._channel.on(self._topic, self._hear)

    def _hear(self, work: int) -> None:
        self._given_up = max(self._given_up, work)

    @property
    def _work(self) -> int:
        return self._counts.get(self._topic, 0)

    def begin(self) -> None:
        """Begins the next work."""
        self._counts[self._topic] = self._work + 1

    def give_up(self) -> None:
        """Ends this work's waits on every process, those that are still to come too."""
        self._channel.tell(self._topic, self._work)

    def wait(self, key: str) -> None:
        """Waits for all at a place of this work; raises GaveUp if one of them won't come."""
        work = self._work
        place = f"{self._topic} {work} {key}"
        self._channel.put(place, None)
        if not self._channel.met(place, unless=lambda: self._given_up >= work):
            raise GaveUp


class Appointment:
    """A place at which all processes stop, agreed on when one of them wants to.

    Every process calls `reached` at the same places in the same order. One that hears that a stop
    is wanted says the next place that it will come to, and the stop is at the latest of these: no
    process has passed it, and none waits for its device or for another process, but for the one
    exchange of messages.
    """

    def __init__(self, heard: Callable[[int], None]):
        """`heard` is told, in the background, what was wanted, the first time."""
        self._heard = heard
        self._changed = threading.Condition()
        self._place = 0
        self._proposed: int | None = None
        self._agreed: int | None = None
        assert group.channel is not None, "a process alone has nobody to agree with"
        self._channel = group.channel
        self._channel.on("stop", self._propose)

    def want(self, value: int) -> None:
        """Says that a stop is wanted, and what for; safe in a signal handler."""
        self._channel.tell("stop", value)

    def _propose(self, value: int) -> None:
        with self._changed:
            if self._proposed is not None:
                return
            self._proposed = self._place + 1
        self._heard(value)
        # Another thread: this one brings the answer.
        threading.Thread(target=self._agree, args=(self._proposed,), daemon=True).start()

    def _agree(self, proposed: int) -> None:
        self._channel.put("place to stop", proposed)
        agreed = max(self._channel.get("place to stop"))
        with self._changed:
            self._agreed = agreed
            self._changed.notify_all()

    def reached(self) -> bool:
        """Counts one more place; returns whether it is the one to stop at, or a later one."""
        with self._changed:
            self._place += 1
            if self._proposed is None or self._place < self._proposed:
                return False
            self._changed.wait_for(lambda: self._agreed is not None)
            return self._agreed is not None and self._place >= self._agreed
