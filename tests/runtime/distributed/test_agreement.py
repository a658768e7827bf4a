"""What processes agree on: values, settings, the end of a job that fails, and where they stop."""

import asyncio
import socket
import time

import numpy as np
import pytest

from ddpm_jax.checkpoints import writer
from ddpm_jax.errors import UserError
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.distributed import agreement
from ddpm_jax.training import resuming


def test_process_0_decides_for_all(as_each):
    assert as_each(lambda n: distributed.broadcast_from_first(lambda: n + 7)) == [7, 7, 7]

    def fail():
        raise UserError("the folder is gone")

    assert as_each(lambda n: distributed.broadcast_from_first(fail)) == ["the folder is gone"] * 3


def test_settings_that_differ_are_named_with_their_processes(as_each):
    assert as_each(lambda n: distributed.compare({"a": 1, "b": [n * 0]})) == [None] * 3
    lines = as_each(lambda n: distributed.compare({"a": 1, "train.steps": 5 + (n == 1)}))
    on = [f"process {n} ({socket.gethostname()})" for n in range(3)]
    start = f"train.steps is 5 on {on[0]}, {on[2]}, and 6 on {on[1]}; start all processes"
    assert lines == [f"{start} with the same"] * 3


def test_nobody_waits_for_a_process_that_aborts(as_each):
    def work(n):
        # Two writers by turns, as of checkpoints and of snapshots.
        writers = [distributed.AbortableBarriers("saves") for _ in range(2)]
        for k, broken in enumerate((True, True, True, False)):
            barriers = writers[k % 2]
            barriers.begin()
            barriers.wait("begun")
            if broken and n == 1:
                time.sleep(0.05)  # The others may wait already, or reach the barrier later.
                barriers.abort()
            elif broken:
                time.sleep(0.05 * n)
                with pytest.raises(distributed.BarrierAborted):
                    barriers.wait("ended")
            else:
                barriers.wait("ended")
            distributed.allgather("saves", broken)
        # As after a failure: a new writer, and the aborted job stays aborted.
        barriers = distributed.AbortableBarriers("saves")
        barriers.begin()
        barriers.wait("begun")
        return True

    assert as_each(work) == [True] * 3


def test_nobody_waits_for_a_folder_that_process_0_cannot_make(as_each):
    class Full:
        async def create(self):
            raise OSError("the disk is full")

    def work(n):
        barriers = distributed.AbortableBarriers("saves")
        with pytest.raises(distributed.BarrierAborted if n else OSError):
            asyncio.run(writer._Shared(barriers).create_temporary_path(Full()))
        return True

    assert as_each(work) == [True] * 3


def test_a_process_alone_agrees_at_once():
    assert distributed.allgather("x", 3) == [3]
    assert distributed.broadcast_from_first(lambda: 4) == 4
    distributed.compare({"a": 1})


@pytest.mark.parametrize("requests", [(1,), (0, 2), (0, 1, 2)])
def test_all_stop_at_one_point_that_none_has_passed(as_each, requests):
    chance = np.random.default_rng(len(requests))
    delays = chance.uniform(0, 2e-3, (3, 2000))
    requested = [0, 0, 0]

    def work(n):
        stop = distributed.StopAgreement(lambda number: None)
        for point in range(1, 2000):
            time.sleep(delays[n, point])
            if n in requests and point == 20 + n:
                requested[n] = point
                stop.request(15)
            if stop.reached_stop_point():
                assert stop.reached_stop_point()
                return point
        return None

    stops = as_each(work)
    assert stops[0] is not None
    assert stops == [stops[0]] * 3
    assert stops[0] > min(point for point in requested if point)


def test_a_folder_that_is_not_shared_is_told_before_the_first_save(as_each, monkeypatch, tmp_path):
    monkeypatch.setattr(resuming, "_PATIENCE", 0.3)
    assert as_each(lambda n: resuming.require_shared(tmp_path)) == [None] * 3
    own = [tmp_path / str(n) for n in (0, 0, 2)]
    for folder in own:
        folder.mkdir(exist_ok=True)
    lines = as_each(lambda n: resuming.require_shared(own[n]))
    for line in lines:
        assert "and process(es) 2 see nothing of it; choose a folder that all of them share" in line
    assert not [*tmp_path.glob("**/.shared-*")]


def test_what_editors_leave_beside_the_source_does_not_count(monkeypatch, tmp_path):
    source = tmp_path / "ddpm_jax/runtime/distributed/agreement.py"
    source.parent.mkdir(parents=True)
    source.write_text("pass")
    monkeypatch.setattr(agreement, "__file__", str(source))
    before = agreement.versions.__wrapped__()
    (source.parent / ".#agreement.py").symlink_to("somebody@here.1234")
    (source.parent / ".other.py").write_text("half a li")
    assert agreement.versions.__wrapped__() == before
    source.write_text("...")
    assert agreement.versions.__wrapped__() != before
