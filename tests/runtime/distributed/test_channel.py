"""The channel: values reach all processes in order, and a lost process is named to the others."""

import re
import socket
import threading
import time

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.distributed.channel import Channel
from ddpm_jax.runtime.distributed.connection import LostProcess
from ddpm_jax.runtime.distributed.server import Server
from tests.runtime.distributed.processes import free_address


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_all_collect_the_values_of_all_in_order(members):
    def exchange(channel):
        channel.submit("a", [channel.process])
        channel.submit("b", f"b{channel.process}")
        return channel.collect("b"), channel.collect("a")

    assert members.each(exchange) == [(["b0", "b1", "b2"], [[0], [1], [2]])] * 3
    assert members.channels[2].hosts == [socket.gethostname()] * 3


def test_news_reach_all_processes_also_those_that_subscribe_late(members):
    heard = [[], [], []]
    members.channels[1].broadcast("stop", 15)
    members.channels[2].broadcast("stop", 2)
    for channel, list_ in zip(members.channels, heard, strict=True):
        channel.subscribe("stop", list_.append)
    until(lambda: all(len(list_) == 2 for list_ in heard))
    assert heard[0] == heard[1] == heard[2]
    assert sorted(heard[0]) == [2, 15]


def test_a_process_whose_connection_closes_is_named_to_the_others(members):
    members.channels[2]._connection._socket.shutdown(socket.SHUT_RDWR)
    until(lambda: members.lost[0] and members.lost[1])
    for lost in members.lost[:2]:
        assert (lost[0].process, lost[0].host, lost[0].code) == (2, socket.gethostname(), 1)


def test_only_a_process_that_leaves_with_a_reason_is_lost(members):
    members.channels[1].leave()
    members.channels[2].leave(2, "ended: a mistake")
    until(lambda: members.lost[0])
    assert members.lost[0] == [LostProcess(2, socket.gethostname(), "ended: a mistake", 2)]


def test_a_stranger_changes_nothing(members):
    host, port = members.address.split(":")
    for words in (b"GET / HTTP/1.0\n\n", b'{"hello": "ddpm_jax 2"}\n', b"\xff\n", b""):
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(words)
    assert (
        members.each(lambda channel: channel.submit("x", 1) or channel.collect("x"))
        == [[1] * 3] * 3
    )


REFUSED = {
    "a number there already": ([(0, 3), (1, 3), (1, 3)], "process 1 on .* has already joined"),
    "another number of processes": ([(0, 3), (1, 2)], "process 1 on .* is one of 2 processes"),
    "one missing": ([(0, 3), (2, 3)], "process 1 of 3 did not connect"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_wrong_set_up_ends_all_processes_with_the_same_line(wrong):
    processes, why = REFUSED[wrong]
    address = free_address()
    server = Server(address, 3)
    lines: list[str] = []

    def join(process, count):
        channel = Channel(address, process, count)
        try:
            channel.join(1)
        except UserError as error:
            lines.append(str(error))
            channel.leave(2, str(error))

    threads = [threading.Thread(target=join, args=process) for process in processes]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(10)
    server.close()
    assert len(lines) == len(processes)
    assert all(re.search(why, line) for line in lines), lines


@pytest.mark.parametrize(
    ("code", "why"), [(2, "^a mistake in its config$"), (1, "process 1 on .* a mistake in its con")]
)
def test_who_waits_for_all_is_told_of_one_that_left(code, why):
    address = free_address()
    server, channels = Server(address, 3), [Channel(address, process, 3) for process in (0, 1)]
    lines: dict[int, str] = {}

    def join(channel):
        try:
            channel.join(5)
        except UserError as error:
            lines[channel.process] = str(error)

    threads = [threading.Thread(target=join, args=[channel]) for channel in channels]
    for thread in threads:
        thread.start()
    until(lambda: len(server._hosts) == 2)
    channels[1].leave(code, "a mistake in its config")
    threads[0].join(4)
    server.close()
    threads[1].join(10)
    assert re.search(why, lines[0]), lines
