"""Many samples: files in a folder, in parts that are divided among the processes.

    DIR/samples.json         what they are samples of
    DIR/samples-00000.npz    the first `sample.batch_size` of them, and so on
    DIR/000000.png           or, as pictures, each sample in a file

One process draws each part, on its own devices, with one compiled shape: that of the first part.
So the contents depend neither on the number of processes nor on kills in between.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ddpm_jax.config import SampleConfig, to_dict
from ddpm_jax.config.checks import check_seed, require_row
from ddpm_jax.errors import UserError, require_whole
from ddpm_jax.files import Remote, StoragePath, StoreError, is_foreign, remove, replacing
from ddpm_jax.runtime import distributed
from ddpm_jax.runtime.memory import free_bytes, require_memory
from ddpm_jax.sampling.cascade import Cascade
from ddpm_jax.sampling.chain import Progress
from ddpm_jax.sampling.files import Arrays, class_names_in, write_joined
from ddpm_jax.sampling.formats import FORMATS, Format, Part
from ddpm_jax.sampling.given import check_label_count, check_range
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
    format: str = "npz",
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> int:
    """Draws the samples that the folder lacks; all processes call it and wait for the last.

    `run` must be loaded on each process's own devices; `format` is a row of FORMATS, and `options`
    are those of `Run.sample`. `progress` gets the intervals that this process has done, and their
    total. Returns how many samples the folder then holds. Raises UserError, on every process, if it
    holds other samples, or if the format can't hold them.
    """
    require_row("format", format, FORMATS)
    kept_as, labels = FORMATS[format], run.labels(labels)
    if reason := kept_as.obstacle(run.config.data):
        raise UserError(f"the format {format} does not apply: {reason}; draw them as npz")
    chosen = run.options(**options)
    if num is None:
        num = chosen.num if labels is None else np.size(labels)
    check_draw(num, seed)
    run.prepare(**options)
    if labels is not None:
        check_label_count(np.size(labels), num)
    about = {**describe_samples(run, chosen, num, seed, labels), "format": format}
    distributed.compare({**about, "output": str(folder), **distributed.versions()})
    distributed.broadcast_from_first(lambda: _claim(folder, about))
    size, classes = min(chosen.batch_size, num), run.num_classes
    # The classes in turn, as `Run.sample` takes them.
    turns = np.arange(classes) if labels is None and classes else labels
    every = None if turns is None else np.resize(turns, math.ceil(num / size) * size)
    # Listed before anyone writes, because all processes must divide the same list.
    parts = _parts(num, size)
    lacking = distributed.broadcast_from_first(lambda: _lacking(kept_as, folder, parts))
    process, count = distributed.rank_and_count()
    own = lacking[process::count]
    for done, part in enumerate(parts[k] for k in own):
        drawn = run.sample(
            size,
            first=part.first,
            seed=seed,
            labels=None if every is None else every[part.first : part.first + size],
            progress=lambda at, of, done=done: progress(done * of + at, len(own) * of),
            **options,
        )
        drawn_labels = None if drawn.labels is None else drawn.labels[: part.num]
        drawn = drawn._replace(samples=drawn.samples[: part.num], labels=drawn_labels)
        kept_as.write(folder, part, drawn)
    distributed.allgather("sampled", len(own))
    if every is not None:
        labels = every[:num]
        distributed.broadcast_from_first(lambda: kept_as.finish(folder, labels, run.class_names))
    return num


def check_draw(num: int, seed: int) -> None:
    """Raises UserError for a seed or a number of samples that can't be drawn in parts."""
    check_seed(seed)
    check_range(0, num)
    # Of all samples at once, only their places and labels are held.
    require_memory(16 * num, free_bytes(), f"the labels of {num:,} samples", "draw fewer")


def _lacking(kept_as: Format, folder: StoragePath, parts: Sequence[Part]) -> list[int]:
    """Returns the numbers of the parts of which some file is missing or not whole."""
    files = [path for path in folder.glob("*") if kept_as.is_own(path.name)]
    there = {path.name for path in files if isinstance(path, Remote) or kept_as.has_end(path)}
    return [part.k for part in parts if not there.issuperset(kept_as.names(part))]


def _parts(num: int, size: int) -> list[Part]:
    firsts = range(0, num, size)
    return [Part(k, first, min(size, num - first)) for k, first in enumerate(firsts)]


def describe_samples(
    run: Run, chosen: SampleConfig, num: int, seed: int, labels: np.ndarray | None
) -> dict[str, Any]:
    """Returns what decides the samples of a run, as plain values."""
    settings = {name: value for name, value in to_dict(chosen).items() if name != "num"}
    given = None if labels is None else np.ravel(labels).tolist()
    return {**_identify(run), "seed": seed, "num": num, "labels": given, **settings}


def _identify(run: Run) -> dict[str, Any]:
    guides = {
        name: None if guide is None else _identify(guide)
        for name, guide in run.guides._asdict().items()
    }
    # A cascade's own parameters and guides are its last stage's.
    before = {}
    if isinstance(run, Cascade):
        before = {"base": _identify(run.base), "noise": run.noise}
    return {"step": run.step, "params": run.name, "digest": _digest(run.params), **guides, **before}


def _digest(params: Any) -> str:
    """Returns a digest of the parameters: another run may have as many steps."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]


class ShardSource:
    """The samples of a folder as a source of floats or pixels; one part is held at a time.

    Raises UserError if a file is missing, damaged, or unlike the others.
    """

    streams = True

    def __init__(self, folder: StoragePath):
        self._folder = folder
        about = read_about(folder / ABOUT)
        for name in ("num", "batch_size"):
            require_whole(f"{folder / ABOUT}: {name}", about.get(name))
        require_row(f"{folder / ABOUT}: format", str(about["format"]), FORMATS)
        self._num, self._size = about["num"], min(about["batch_size"], about["num"])
        self._parts = _parts(self._num, self._size)
        self._read = FORMATS[about["format"]].open(folder)
        self._held = self._parts[0], self._read(self._parts[0])
        first = self._held[1]
        self.shape: tuple[int, ...] = first["samples"].shape[1:]
        self._dtype = first["samples"].dtype
        self._labelled = "labels" in first
        self.class_names: tuple[str, ...] = ()
        """The name of each class; empty where some sample has none."""
        given = about.get("labels")
        if self._labelled and not (isinstance(given, list) and -1 in given):
            self.class_names = class_names_in(first)
            if "class_names" not in first:
                # The labels say how many classes there are, and no part need have all.
                labels = [self._arrays(part)["labels"] for part in self._parts]
                self.class_names = class_names_in({"labels": np.concatenate(labels)})

    def __len__(self) -> int:
        return self._num

    def gather(self, indices: np.ndarray) -> Batch:
        parts = np.asarray(indices) // self._size
        examples = np.empty((len(parts), *self.shape), self._dtype)
        labels = np.empty(len(parts), np.int32) if self._labelled else None
        for k in np.unique(parts):
            arrays, rows = self._arrays(self._parts[k]), parts == k
            at = np.asarray(indices)[rows] - k * self._size
            examples[rows] = arrays["samples"][at]
            if labels is not None:
                labels[rows] = arrays["labels"][at]
        return Batch(examples, labels)

    def gather_parts(self) -> Iterator[Batch]:
        """Yields all samples in order, a part at a time."""
        for part in self._parts:
            yield self.gather(part.first + np.arange(part.num))

    def _arrays(self, part: Part) -> Arrays:
        if self._held[0] != part:
            self._held = part, self._read(part)
        arrays, need = self._held[1], (part.num, *self.shape)
        have = arrays["samples"].shape
        if have != need or ("labels" in arrays) != self._labelled:
            raise UserError(
                f"{self._folder}: samples from {part.first} on are {have}, not {need}, or lack "
                "labels; remove their file, and draw the folder again"
            )
        return arrays


def sample_pixels(run: Run, path: StoragePath, num: int | None = None, **options: Any) -> int:
    """Draws pictures into one .npz, as `write_pixels` writes it; options as of `sample_shards`.

    They are drawn in parts, in a folder beside it that is removed at the end: after a kill the same
    call goes on. One part is held at a time.
    """
    folder = path.with_name(f"{path.name}.parts")
    count = sample_shards(run, folder, num, format="arr_0", **options)

    def join() -> None:
        source = ShardSource(folder)
        write_joined(path, (len(source), *source.shape), source.gather_parts(), run.class_names)
        remove(folder)

    distributed.broadcast_from_first(join)
    return count


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
    return {"format": "npz", **there}


def _claim(folder: StoragePath, about: dict[str, Any]) -> None:
    """Marks the folder as one of these samples, and removes files that a kill left half written."""
    path, kept_as = folder / ABOUT, FORMATS[about["format"]]
    names = [item.name for item in folder.glob("*")]
    others = sorted(name for name in names if not is_foreign(name))
    if not path.is_file() and others:
        raise UserError(
            f"{folder} has {others[0]}, and no {ABOUT}: it is no folder of samples; "
            "choose a new one"
        )
    if path.is_file():
        there = read_about(path)
        for name, value in about.items():
            if there.get(name) != value:
                raise UserError(
                    f"{folder} holds samples with {name} = {there.get(name)!r}, and these "
                    f"have {value!r}; choose another folder, or the same setting"
                )
        for name in filter(kept_as.is_half, names):
            (folder / name).unlink(missing_ok=True)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except StoreError:
        raise
    except OSError as error:
        raise UserError(f"{folder} can't be created ({error.strerror})") from None
    with replacing(path) as beside:
        beside.write_text(json.dumps(about, indent=2) + "\n")
