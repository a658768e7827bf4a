"""Several processes as one run: they join, agree, and end together.

    with joined(spec):      # once, before any device is touched
        train(config, run)

Inside, every process does the same things in the same order. Some facts depend on one machine: the
content of a folder, a full disk, a signal. One process announces such a fact with
`broadcast_from_first`, or all agree on it with `allgather`, `compare`, `StopAgreement` and
`AbortableBarriers`. In a run of one process these cost nothing.
"""

from ddpm_jax.runtime.distributed.agreement import (
    AbortableBarriers,
    BarrierAborted,
    StopAgreement,
    allgather,
    broadcast_from_first,
    compare,
    is_alone,
    is_first,
    rank_and_count,
    versions,
)
from ddpm_jax.runtime.distributed.cluster import DistributedOptions, ProcessSpec, find_process
from ddpm_jax.runtime.distributed.joining import joined

__all__ = [
    "AbortableBarriers",
    "BarrierAborted",
    "DistributedOptions",
    "ProcessSpec",
    "StopAgreement",
    "allgather",
    "broadcast_from_first",
    "compare",
    "find_process",
    "is_alone",
    "is_first",
    "joined",
    "rank_and_count",
    "versions",
]
