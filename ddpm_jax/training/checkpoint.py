"""Checkpoints: Orbax arrays, the config that made them, and a checksum of every file.

    checkpoints/
      12000/
        state/           what Orbax writes: step, params, ema, opt_state
        meta.json        the whole config and the versions that wrote it
        checksums.json   SHA-256 of every other file
      13000.tmp/         being written, or left by a kill: never read, removed by the next save

A folder gets its bare number by one rename, after its last byte is on disk. So a numbered folder
that does not match its checksums was altered, and is passed over by name; Orbax alone would
restore wrong numbers from a flipped bit without a word.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ddpm_jax import config as configs
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError

_SUMS, _META, _STATE = "checksums.json", "meta.json", "state"
_PACKAGES = ("ddpm_jax", "jax", "flax", "optax", "orbax-checkpoint")


class Checkpoints:
    """The checkpoints of one run folder; saving goes on in the background."""

    def __init__(self, run: str | Path, *, report: Callable[[str], None] = print):
        """`report` is given one line for each checkpoint that had to be passed over."""
        self.run = Path(run)
        self.folder = self.run.absolute() / "checkpoints"
        self._report = report
        self._writer: ocp.StandardCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a finished checkpoint, in rising order; reads no content."""
        if not self.folder.is_dir():
            return []
        return sorted(int(item.name) for item in self.folder.iterdir() if item.name.isdecimal())

    # --- saving ---

    def save(
        self, step: int, state: Any, config: Config, *, keep: int, keep_every: int | None
    ) -> None:
        """Copies the state to the host, then writes it in the background; all processes call it.

        When it is on disk, older checkpoints are removed but for the newest `keep` and the
        multiples of `keep_every`.
        """
        self.wait()
        target = self.folder / f"{step}.tmp"
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for torn in self.folder.glob("*.tmp*"):
                shutil.rmtree(torn)
        if self._writer is None:
            self._writer = ocp.StandardCheckpointer()
        self._writer.save(target / _STATE, state)
        arguments = (self._writer, step, config, keep, keep_every)
        self._thread = threading.Thread(target=self._finish, args=arguments, daemon=True)
        self._thread.start()

    def _finish(
        self,
        writer: ocp.StandardCheckpointer,
        step: int,
        config: Config,
        keep: int,
        keep_every: int | None,
    ) -> None:
        try:
            writer.wait_until_finished()
            if jax.process_index() == 0:
                self._seal(step, config)
                self._prune(step, keep, keep_every)
        except Exception as error:  # Raised again, in the caller's thread, by wait().
            self._failure = error

    def _seal(self, step: int, config: Config) -> None:
        target = self.folder / f"{step}.tmp"
        versions = {name: version(name) for name in _PACKAGES}
        meta = {"step": step, "config": configs.to_dict(config), "versions": versions}
        (target / _META).write_text(json.dumps(meta, indent=2) + "\n")
        (target / _SUMS).write_text(json.dumps(_checksums(target), indent=2) + "\n")
        final = self.folder / str(step)
        if final.exists():  # An altered one that the resume passed over.
            shutil.rmtree(final)
        target.rename(final)

    def _prune(self, newest: int, keep: int, keep_every: int | None) -> None:
        # A later one is damaged, or the run would have gone on from it: it must not count.
        for step in [step for step in self.steps() if step <= newest][:-keep]:
            if keep_every is None or step % keep_every:
                # Renamed first: half a removal must not look like an altered checkpoint.
                going = (self.folder / str(step)).rename(self.folder / f"{step}.tmp-old")
                shutil.rmtree(going)

    def wait(self) -> None:
        """Waits for the save under way; raises UserError if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise UserError(
                f"the checkpoint in {self.folder} could not be written: {_first_line(failure)}; "
                "free some space there, then run the same command again"
            ) from failure

    def close(self) -> None:
        """Waits for the save under way and ends Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    # --- reading ---

    def newest_good(self, step: int | None = None) -> int | None:
        """Returns `step`, or the newest checkpoint whose files all match their checksums.

        Returns None if there is no checkpoint at all. Raises UserError if the step asked for does
        not exist or is damaged, or if every checkpoint is damaged.
        """
        steps = self.steps()
        if step is not None:
            if step not in steps:
                have = ", ".join(map(str, steps)) or "none"
                raise UserError(f"{self.folder} has no checkpoint {step}; it has {have}")
            steps = [step]
        for candidate in reversed(steps):
            damage = _damage(self.folder / str(candidate))
            if damage is None:
                return candidate
            self._report(f"checkpoint {self.folder / str(candidate)} is damaged: {damage}")
        if steps:
            raise UserError(
                f"no good checkpoint is left in {self.folder}: put one back, "
                "or train again in another --workdir"
            )
        return None

    def config(self, step: int) -> Config:
        """Returns the whole config that a checkpoint was trained with."""
        path = self.folder / str(step) / _META
        return configs.from_dict(json.loads(path.read_text())["config"])

    def restore(self, step: int, layout: Any) -> Any:
        """Restores a checkpoint into the shapes and shardings of `layout`, on any devices.

        `layout` is a mapping or NamedTuple of trees of `jax.ShapeDtypeStruct`; top-level names
        that it lacks (the optimizer, say) are not read.
        """
        fields = layout._asdict() if hasattr(layout, "_asdict") else dict(layout)
        restore_args = ocp.checkpoint_utils.construct_restore_args(fields)
        arguments = ocp.args.PyTreeRestore(
            item=fields, restore_args=restore_args, partial_restore=True
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            found = reader.restore(self.folder / str(step) / _STATE, args=arguments)
        return type(layout)(**found)


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(item for item in folder.rglob("*") if item.is_file() and item.name != _SUMS)
    return {item.relative_to(folder).as_posix(): _sha256(item) for item in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(folder: Path) -> str | None:
    """Says what is wrong with a checkpoint's files, or None."""
    try:
        expected = json.loads((folder / _SUMS).read_text())
        found = _checksums(folder)
    except (OSError, ValueError) as error:
        return f"{_SUMS} can't be read ({_first_line(error)})"
    if not isinstance(expected, dict) or not expected:
        return f"{_SUMS} lists no files"
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} does not belong to it"
        if expected[name] != found[name]:
            return f"{name} differs from its checksum"
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
