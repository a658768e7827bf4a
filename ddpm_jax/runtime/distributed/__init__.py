"""Several processes as one run: joining, agreeing, and ending together.

    with joined(place):      # once, before any device is touched
        train(config, run)

Inside, every process does the same things in the same order. What depends on one machine alone (a
folder's content, a disk that is full, a signal) is said by one or agreed on through `first_says`,
`gather`, `compare`, `Appointment` and `Barriers`; a process that runs alone pays nothing for them.
"""

from ddpm_jax.runtime.distributed.agreement import (
    Appointment,
    Barriers,
    GaveUp,
    alone,
    compare,
    first,
    first_says,
    gather,
    rank,
    versions,
)
from ddpm_jax.runtime.distributed.cluster import Options, Place, find
from ddpm_jax.runtime.distributed.joining import joined

__all__ = [
    "Appointment",
    "Barriers",
    "GaveUp",
    "Options",
    "Place",
    "alone",
    "compare",
    "find",
    "first",
    "first_says",
    "gather",
    "joined",
    "rank",
    "versions",
]
