"""Many samples: numbered files in a folder, divided among the processes.

    DIR/samples.json         what they are samples of
    DIR/samples-00000.npz    the first `sample.batch_size` of them, and so on

One process draws each file, on its own devices, with one compiled shape: that of the first file.
So the contents depend neither on the number of processes nor on kills in between.
"""

import hashlib
import json
import math
import re
import zipfile
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import SampleConfig, override, to_dict
from ddpm_jax.errors import UserError
from ddpm_jax.files import Remote, StoragePath, StoreError, replacing
from ddpm_jax.runtime import distributed
from ddpm_jax.sampling.chain import Progress, check_range
from ddpm_jax.sampling.files import class_names_in, read_samples, write_samples
from ddpm_jax.sampling.run import Run
from ddpm_jax.typing import Batch

ABOUT = "samples.json"


def sample_shards(
    run: Run,
    folder: StoragePath,
    num: int | None = None,
    *,
    seed: int = 0,
    labels: Any = None,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> int:
    """Draws the samples that the folder lacks; all processes call it and wait for the last.

    `run` must be loaded on each process's own devices; `options` are those of `Run.sample`.
    `progress` gets the intervals that this process has done, and their total. Returns how many
    samples the folder then holds. Raises UserError, on every process, if it holds other samples.
    """
    labels = run.labels(labels)
    chosen = override(run.config.sample, options)
    if num is None:
        num = chosen.num if labels is None else np.size(labels)
    check_range(0, num)
    about = describe_samples(run, chosen, num, seed, labels)
    distributed.compare({**about, "output": str(folder), **distributed.versions()})
    distributed.broadcast_from_first(lambda: _claim(folder, about))
    size = min(chosen.batch_size, num)
    given = None if labels is None else np.ravel(labels)
    # Listed before anyone writes, because all processes must divide the same list.
    there = {path.name for path in folder.glob("samples-*.npz") if _is_whole(path)}
    lacking = [k for k in range(math.ceil(num / size)) if _path(folder, k).name not in there]
    lacking = distributed.broadcast_from_first(lambda: lacking)
    process, count = distributed.rank_and_count()
    own = lacking[process::count]
    for done, k in enumerate(own):
        drawn = run.sample(
            size,
            first=k * size,
            seed=seed,
            labels=None if given is None else given[(k * size + np.arange(size)) % len(given)],
            progress=lambda at, of, done=done: progress(done * of + at, len(own) * of),
            **options,
        )
        kept = min(size, num - k * size)
        drawn_labels = None if drawn.labels is None else drawn.labels[:kept]
        part = drawn._replace(samples=drawn.samples[:kept], labels=drawn_labels)
        write_samples(_path(folder, k), part)
    distributed.allgather("sampled", len(own))
    return num


def _path(folder: StoragePath, k: int) -> StoragePath:
    return folder / f"samples-{k:05}.npz"


def _is_whole(path: StoragePath) -> bool:
    """Whether a file is complete; lost power can leave it empty or without its end."""
    return isinstance(path, Remote) or zipfile.is_zipfile(path)


def describe_samples(
    run: Run, chosen: SampleConfig, num: int, seed: int, labels: np.ndarray | None
) -> dict[str, Any]:
    """Returns what decides the samples of a run, as plain values."""
    settings = {name: value for name, value in to_dict(chosen).items() if name != "num"}
    given = None if labels is None else np.ravel(labels).tolist()
    about = {"step": run.step, "params": run.name, "digest": _digest(run.params)}
    return {**about, "seed": seed, "num": num, "labels": given, **settings}


def _digest(params: Any) -> str:
    """Returns a digest of the parameters: another run may have as many steps."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


class ShardSource:
    """The samples of a folder as a source of floats; one file is held at a time.

    Raises UserError if a file is missing, damaged, or of another number of samples.
    """

    streams = True

    def __init__(self, folder: StoragePath):
        self._folder = folder
        about = read_about(folder / ABOUT)
        self._num, self._size = about["num"], min(about["batch_size"], about["num"])
        self._held: tuple[int, dict[str, np.ndarray]] = (-1, {})
        first = self._read(0)
        self.shape: tuple[int, ...] = first["samples"].shape[1:]
        self.class_names = class_names_in(first)

    def __len__(self) -> int:
        return self._num

    def gather(self, indices: np.ndarray) -> Batch:
        files = np.asarray(indices) // self._size
        examples = np.empty((len(files), *self.shape), np.float32)
        labels = np.empty(len(files), np.int32) if self.class_names else None
        for k in np.unique(files):
            arrays, rows = self._read(int(k)), files == k
            at = np.asarray(indices)[rows] - k * self._size
            examples[rows] = arrays["samples"][at]
            if labels is not None:
                labels[rows] = arrays["labels"][at]
        return Batch(examples, labels)

    def _read(self, k: int) -> dict[str, np.ndarray]:
        if self._held[0] != k:
            self._held = k, read_samples(_path(self._folder, k))
            have, need = len(self._held[1]["samples"]), min(self._size, self._num - k * self._size)
            if have != need:
                raise UserError(
                    f"{_path(self._folder, k)} has {have} samples, not {need}; "
                    "remove it, and draw the folder again"
                )
        return self._held[1]


def read_about(path: StoragePath) -> dict[str, Any]:
    """Returns what a folder of samples says of itself; raises UserError if it can't be read."""
    try:
        there = json.loads(path.read_bytes())
        if not isinstance(there, dict):
            raise ValueError
    except StoreError:
        raise
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} can't be read; choose another folder") from None
    return there


def _claim(folder: StoragePath, about: dict[str, Any]) -> None:
    """Marks the folder as one of these samples, and removes files that a kill left half written."""
    path = folder / ABOUT
    numbered = (re.fullmatch(r"samples-[0-9]+\.npz", it.name) for it in folder.glob("samples-*"))
    if folder.is_dir() and not path.is_file() and any(numbered):
        raise UserError(f"{folder} has samples without {ABOUT}; choose another folder")
    if path.is_file():
        there = read_about(path)
        for name, value in about.items():
            if there.get(name) != value:
                raise UserError(
                    f"{folder} holds samples with {name} = {there.get(name)!r}, and these "
                    f"have {value!r}; choose another folder, or the same setting"
                )
        for half in folder.glob(".samples-*.npz"):
            if re.fullmatch(r"\.samples-[0-9]+\.[0-9]+\.npz", half.name):
                half.unlink(missing_ok=True)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except StoreError:
        raise
    except OSError as error:
        raise UserError(f"{folder} can't be created ({error.strerror})") from None
    with replacing(path) as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n")
