"""Three processes of a run, all in this one: their channels, and what each of them agrees on."""

import threading

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed import agreement
from ddpm_jax.runtime.distributed.channel import Channel
from ddpm_jax.runtime.distributed.connection import LostProcess
from ddpm_jax.runtime.distributed.server import Server
from tests.runtime.distributed.processes import free_address


class Members:
    """The channels of three processes, all in this one."""

    def __init__(self, count=3):
        self.address = free_address()
        self.server = Server(self.address, count)
        self.channels = [Channel(self.address, n, count) for n in range(count)]
        self.lost: list[list[LostProcess]] = [[] for _ in range(count)]
        self.each(lambda channel: channel.join(20))
        for channel, lost in zip(self.channels, self.lost, strict=True):
            channel.listen(lost.append)

    def each(self, do):
        """Calls `do` with every channel, all at once, and returns the results."""
        results: list = [None] * len(self.channels)

        def one(n):
            results[n] = do(self.channels[n])

        threads = [threading.Thread(target=one, args=(n,)) for n in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return results

    def close(self):
        for channel in self.channels:
            channel.leave()
        self.server.close()


@pytest.fixture
def members():
    members = Members()
    yield members
    members.close()


@pytest.fixture
def as_each(members, monkeypatch):
    """Calls a function as each of three processes; each thread has its own group."""
    local = threading.local()
    monkeypatch.setattr(agreement, "group", _Local(local))

    def call(do):
        def one(channel):
            local.group = agreement.Group()
            local.group.channel = channel
            try:
                return do(channel.process)
            except UserError as error:
                return str(error)

        return members.each(one)

    return call


class _Local:
    def __init__(self, local):
        self._local = local

    def __getattr__(self, name):
        return getattr(self._local.group, name)
