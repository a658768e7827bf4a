"""Compares the speed of this working tree with that of another commit, by turns in one run.

    python tests/benchmarks/revisions.py df56273 --pairs 20

Each side is a process of its own with its own package. Both do the same work one after the other,
and change places in every pair. What is printed is the ratio of this tree's time to the other's:
the geometric mean over the pairs, and the upper bound of its two-sided 95 % interval (Student's t).
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# How many steps of training, and of the chain (samples for the swiss roll), a slice has.
WORKS = {"unet": (5, 20), "annotated": (5, 8), "swiss_roll": (1_000, 2_000)}
# Quantiles of Student's t at 97.5 %, by degrees of freedom.
STUDENT = {4: 2.776, 9: 2.262, 14: 2.145, 19: 2.093, 29: 2.045, 39: 2.023}


def ours(work: str) -> Any:
    """Returns the comparison's own side, of the package that this process has."""
    import peer

    if work == "swiss_roll":
        import swiss_roll_torch

        return swiss_roll_torch.SwissRoll()
    if work == "unet":
        import unet_diffusers

        options = argparse.Namespace(network="small", batch=None, dtype="float32", dispatch=5)
        return peer.Ours(unet_diffusers.configured(options))
    from ddpm_jax.config import flatten, override

    config = peer.shipped("fashion_mnist")
    parts = "train.gradient_accumulation_steps"
    if parts not in flatten(config):
        parts = "train.accumulate"  # Its name up to version 0.1.
    return peer.Ours(override(config, {parts: 8, "train.steps_per_dispatch": 5}))


def serve(root: str) -> None:
    """Answers each line `[WORK, PART, NUMBER]` on stdin with the seconds it took."""
    sys.path[:0] = [root, str(Path(root) / "tests" / "benchmarks")]
    from peer import clocked

    sides: dict[str, Any] = {}
    for line in sys.stdin:
        work, part, number = json.loads(line)
        side = sides.setdefault(work, None) or ours(work)
        sides[work] = side
        chain = side.sample if work == "swiss_roll" else side.sample_part
        timed = clocked(side.train if part == "train" else chain)
        print(json.dumps(timed(number)[0]), flush=True)


class Side:
    """One process with one package: `seconds(work, part, number)`."""

    def __init__(self, root: Path):
        words = [sys.executable, __file__, "--serve", str(root)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        )

    def seconds(self, work: str, part: str, number: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([work, part, number]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"a side ended when asked to {part} {work}; its own words are above")
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Gives a folder with the files of a commit."""
    with tempfile.TemporaryDirectory(prefix="ddpm-revision-") as folder:
        archive = subprocess.run(
            ["git", "-C", ROOT, "archive", revision], check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def compare(
    what: str, here: Callable[[], float], there: Callable[[], float], pairs: int
) -> tuple[float, float]:
    """Prints and returns the ratio of here to there, and the upper bound of its 95 % interval."""
    _ = here(), there()  # Compiles, warms up.
    both = []
    for pair in range(pairs):
        first, second = (here, there) if pair % 2 else (there, here)
        times = first(), second()
        both.append(times if pair % 2 else times[::-1])
    logs = [math.log(a / b) for a, b in both]
    mean, spread = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(pairs)
    ratio, bound = math.exp(mean), math.exp(mean + STUDENT.get(pairs - 1, 2.0) * spread)
    medians = [statistics.median(column) for column in zip(*both, strict=True)]
    print(
        f"{what}: {medians[0]:.3f} s here, {medians[1]:.3f} s there, "
        f"ratio {ratio:.3f}, at most {bound:.3f}",
        flush=True,
    )
    return ratio, bound


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("revision", nargs="?", help="the other commit")
    words.add_argument("--pairs", type=int, default=20, help="of slices (default %(default)s)")
    words.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    words.add_argument("--serve", help=argparse.SUPPRESS)
    options = words.parse_args()
    if options.serve:
        serve(options.serve)
        return
    if not options.revision:
        words.error("name the other commit")
    with checked_out(options.revision) as other:
        here, there = Side(ROOT), Side(other)
        for work in options.works:
            for part, number in zip(("train", "sample"), WORKS[work], strict=True):
                compare(
                    f"{work}, {part} {number:,}",
                    lambda w=work, p=part, n=number: here.seconds(w, p, n),
                    lambda w=work, p=part, n=number: there.seconds(w, p, n),
                    options.pairs,
                )
        here.close()
        there.close()


if __name__ == "__main__":
    main()
