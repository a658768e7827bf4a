"""Pictures a second that a training run is given while nothing else runs, and those of one core.

    python tests/benchmarks/input_speed.py [--seconds 20] [--pictures 2000] [--cores 2]

Sets that are decoded as they are read: CIFAR-10 by TFDS (where TFDS_DATA_DIR has it), and folders
of PNG and JPEG files that this script draws; beside them arrays read in place or in memory.
Each is read as training reads it, in batches of 128 pictures of 32² and 64 of 256².
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_jax.data import SOURCES
from ddpm_jax.data.batches import Batches
from ddpm_jax.data.settings import ArraysData, FolderData, TfdsData
from ddpm_jax.data.source import ArraySource, Source, StreamSource


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--seconds", type=float, default=20.0)
    words.add_argument("--pictures", type=int, default=2000)
    words.add_argument("--cores", type=int, default=2)
    given = words.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    # As on a machine that has so many: the threads that decode are counted from the CPUs.
    StreamSource.workers = given.cores
    print(f"{given.cores} cores\n\n| data | pictures/s | of one core | cores busy |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DDPM_JAX_CACHE"] = ""
        for name, source in sources(Path(scratch), given.pictures):
            size = 128 if source.shape[0] == 32 else 64
            count, took, worked = read(source, size, given.seconds)
            row = f"{count / took:,.0f} | {count / worked:,.0f} | {worked / took:.2f}"
            print(f"| {name} | {row} |", flush=True)


def read(source: Source, size: int, seconds: float) -> tuple[int, float, float]:
    """Returns how many pictures were read, the seconds it took, and the seconds of all cores."""
    with Batches(source, seed=0, batch_size=size) as batches:
        for step in range(3):
            batches(step)
        began, worked = time.perf_counter(), time.process_time()
        for step in itertools.count(3):
            batches(step)
            took = time.perf_counter() - began
            if took > seconds:
                return (step - 2) * size, took, time.process_time() - worked
    raise AssertionError


def sources(scratch: Path, count: int) -> Iterator[tuple[str, Source]]:
    if os.environ.get("TFDS_DATA_DIR"):
        data = TfdsData(name="cifar10", image_size=(32, 32), channels=3)
        yield "cifar10 by TFDS, 32²", SOURCES["tfds"](data)
    for side, (height, width), ending in (
        (32, (32, 32), "png"),
        (256, (256, 256), "png"),
        (256, (256, 256), "jpg"),
        (256, (375, 500), "jpg"),
        (256, (1024, 1024), "jpg"),
    ):
        folder = scratch / f"{height}{ending}"
        folder.mkdir()
        for index in range(count):
            drawn(index, height, width).save(folder / f"{index:05}.{ending}", quality=90)
        data = FolderData(path=str(folder), image_size=(side, side))
        yield f"{ending} files of {width}x{height}, {side}²", SOURCES["folder"](data)
    path = scratch / "pictures.npy"
    pictures = np.stack([np.asarray(drawn(index, 256, 256)) for index in range(count)])
    np.save(path, pictures)
    data = ArraysData(path=str(path), image_size=(256, 256))
    yield ".npy that is read in place, 256²", SOURCES["arrays"](data)
    yield "array in memory, 256²", ArraySource(pictures)


def drawn(index: int, height: int, width: int) -> Image.Image:
    """Returns a picture with edges, slopes and grain, about as hard to decode as a photograph."""
    random = np.random.default_rng(index)
    coarse = random.integers(0, 256, size=(12, 16, 3), dtype=np.uint8)
    kind = Image.Resampling.BICUBIC if index % 2 else Image.Resampling.NEAREST
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), kind), np.float32)
    grain = random.normal(0, 6, size=(height, width, 1))
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
