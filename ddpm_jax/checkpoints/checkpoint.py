"""Checkpoints: Orbax arrays, the config that made them, and a checksum of every file.

    checkpoints/
      12000/
        state/           what Orbax writes: step, params, ema, opt_state
        arrays.json      shape and type of each of them
        meta.json        the whole config, what the data were, and the code that wrote it
        checksums.json   SHA-256 of every other file
      13000.tmp/         being written, or left by a kill: never read, removed by the next save

So it looks on a disk; `training.commit` says how else a folder comes to count. One that does not
match its checksums was altered, and is passed over by name; Orbax alone would restore wrong numbers
from a flipped bit without a word.
"""

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import orbax.checkpoint as ocp

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.commit import META, commit_in, damage, first_line
from ddpm_jax.checkpoints.manifest import (
    Arrays,
    difference,
    from_text,
    named,
    of_fields,
    to_text,
    tree_of,
)
from ddpm_jax.checkpoints.quiet import Quiet
from ddpm_jax.checkpoints.writer import Writer
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.files import Remote, StoragePath, StoreError, storage_path
from ddpm_jax.runtime.distributed import BarrierAborted, allgather, is_alone, is_first, versions

_STATE, _ARRAYS = "state", "arrays.json"


class Checkpoints:
    """The checkpoints of one run folder; saving goes on in the background."""

    def __init__(self, run: str | StoragePath, *, report: Callable[[str], None] = print):
        """`report` is given one line for each checkpoint that had to be passed over."""
        self.run = storage_path(run)
        self.folder = self.run.absolute() / "checkpoints"
        self._commit = commit_in(self.folder)
        self._report = report
        self._writer: Writer | None = None
        self._thread: threading.Thread | None = None
        self._failure: str | None = None
        self._quiet: Quiet | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a finished checkpoint, in rising order; reads no content."""
        return self._commit.steps()

    # --- saving ---

    def save(
        self,
        step: int,
        state: Any,
        config: Config,
        *,
        keep: int | None,
        keep_every: int | None,
        data: Mapping[str, Any] | None = None,
        along: Callable[[], None] = lambda: None,
    ) -> None:
        """Copies the state to the host, then writes it in the background; all processes call it.

        When it is on disk, older checkpoints are removed but for the newest `keep` (None keeps
        all) and the multiples of `keep_every`. A save that fails leaves them alone, and raises
        nothing: `problem` and `wait` tell of it. `data` is kept as what the data were. `along` is
        called in the background before the checkpoint counts: what belongs to the steps before it
        is then kept, too.
        """
        self.join()
        failure, texts = None, {}
        try:
            meta = {"step": step, "config": configs.to_dict(config), "data": data}
            texts[META] = json.dumps({**meta, "versions": versions()}, indent=2) + "\n"
            texts[_ARRAYS] = to_text(named(_fields(state)))
            if is_first():
                self._commit.begin(step)
        except Exception as error:
            failure = error
        # Orbax begins by waiting for all devices: either all processes come to it or none.
        if self._reason_of_any(failure) is not None:
            failure = failure or BarrierAborted()
        else:
            failure = self._start(step, state)
        arguments = (step, texts, keep, keep_every, along, failure)
        self._thread = threading.Thread(target=self._finish, args=arguments, daemon=True)
        self._thread.start()

    def _start(self, step: int, state: Any) -> Exception | None:
        try:
            self._quiet = self._quiet or Quiet()
            self._writer = self._writer or Writer()
            self._writer.save(self._commit.written(step) / _STATE, state)
        except Exception as error:  # Orbax has no kind of its own for "the disk is full".
            return error
        return None

    def _finish(
        self,
        step: int,
        texts: dict[str, str],
        keep: int | None,
        keep_every: int | None,
        along: Callable[[], None],
        failure: Exception | None,
    ) -> None:
        """Ends a save, in the background; one process's failure is every process's."""
        try:
            if failure is None and self._writer is not None:
                self._writer.wait()
        except Exception as error:  # Told in the caller's thread.
            failure = error
        if failure is not None and self._writer is not None:
            self._writer.give_up()
        reason = self._reason_of_any(failure)
        failure = None
        try:
            if reason is None and is_first():
                along()
                self._seal(step, texts)
                if keep is not None:
                    self._prune(step, keep, keep_every)
        except Exception as error:
            failure = error
        reason = reason or self._reason_of_any(failure)
        if reason is not None:
            self._give_up(step, reason)

    def _reason_of_any(self, failure: Exception | None) -> str | None:
        """Why a save failed, on the first process where it did; all processes call it."""
        own = None if failure is None else _reason(failure, self.folder)
        if own is not None and not is_alone():
            own = f"{own}, on {socket.gethostname()}"
        said = [
            each
            for each in allgather("save", [isinstance(failure, BarrierAborted), own])
            if each[1]
        ]
        # Who merely waited for another one knows no reason; the other one does.
        return min(said, key=lambda each: each[0], default=[False, None])[1]

    def _give_up(self, step: int, reason: str) -> None:
        if self._quiet is not None:
            self._quiet.stay()
        # A writer that failed may fail for ever; and what it wrote only takes room.
        writer, self._writer = self._writer, None
        with suppress(Exception):
            if writer is not None:
                writer.close()
        if is_first():
            self._commit.drop(step)
        self._failure = reason

    def _seal(self, step: int, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            (self._commit.written(step) / name).write_text(text)
        self._commit.end(step)

    def _prune(self, newest: int, keep: int, keep_every: int | None) -> None:
        # A later one is damaged, or the run would have gone on from it: it must not count.
        for step in [step for step in self.steps() if step <= newest][:-keep]:
            if keep_every is None or step % keep_every:
                self._commit.remove(step)

    def problem(self) -> str | None:
        """Says, once and without waiting, why the last save failed, if it is known to have."""
        failure, self._failure = self._failure, None
        return failure

    def join(self) -> None:
        """Waits for the save under way; `problem` then knows how it went."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wait(self) -> None:
        """Waits for the save under way; raises UserError if it failed."""
        self.join()
        reason = self.problem()
        if reason is not None:
            raise UserError(
                f"the checkpoint in {self.folder} could not be written: {reason}; "
                "make room there, or mend the folder, then run the same command again"
            )

    def close(self) -> None:
        """Waits for the save under way and ends Orbax's threads."""
        self.join()
        for part in (self._writer, self._quiet):
            if part is not None:
                part.close()
        self._writer = self._quiet = None

    # --- reading ---

    def newest_good(self, step: int | None = None, *, at_most: int | None = None) -> int | None:
        """Returns `step`, or the newest checkpoint whose files all match their checksums.

        With `at_most`, later ones don't count. Returns None if there is no checkpoint at all.
        Raises UserError if the step asked for does not exist or is damaged, or if every checkpoint
        is damaged.
        """
        steps = [found for found in self.steps() if at_most is None or found <= at_most]
        if step is not None:
            if step not in steps:
                have = ", ".join(map(str, steps)) or "none"
                raise UserError(f"{self.folder} has no checkpoint {step}; it has {have}")
            steps = [step]
        for candidate in reversed(steps):
            found = damage(self.folder / str(candidate))
            if found is None:
                return candidate
            self._report(f"checkpoint {self.folder / str(candidate)} is damaged: {found}")
        if steps:
            raise UserError(
                f"no good checkpoint is left in {self.folder}: put one back, "
                "or train again in another --workdir"
            )
        return None

    def config(self, step: int) -> Config:
        """Returns the whole config that a checkpoint was trained with."""
        return configs.from_dict(self._meta(step)["config"])

    def data(self, step: int) -> dict[str, Any] | None:
        """Returns what was said of the data that a checkpoint was trained on, if it was."""
        return self._meta(step).get("data")

    def shapes(self, step: int, field: str) -> Any | None:
        """Returns a top-level name's arrays as shapes, if this very code wrote the checkpoint.

        They are then those of the config's network, which else takes a trace of it to find out.
        """
        if self._meta(step).get("versions") != versions():
            return None
        return tree_of(self._arrays(step), field)

    def _arrays(self, step: int) -> Arrays:
        try:
            return from_text((self.folder / str(step) / _ARRAYS).read_text())
        except FileNotFoundError:
            raise self._foreign(step, f"no {_ARRAYS}") from None

    def _foreign(self, step: int, what: str) -> UserError:
        return UserError(
            f"checkpoint {self.folder / str(step)} has {what}: it was written by other code; "
            "go on with that, or choose another --workdir"
        )

    def _meta(self, step: int) -> dict[str, Any]:
        return json.loads((self.folder / str(step) / META).read_text())

    def restore(self, step: int, layout: Any) -> Any:
        """Restores a checkpoint into the shapes and shardings of `layout`, on any devices.

        `layout` is a mapping or NamedTuple of trees of `jax.ShapeDtypeStruct`; top-level names
        that it lacks (the optimizer, say) are not read. Raises UserError, naming the first array
        that is not the same in both, if the checkpoint is of another network.
        """
        fields = _fields(layout)
        folder = self.folder / str(step)
        with _asked(folder):
            other = difference(of_fields(self._arrays(step), list(fields)), named(fields))
        if other is not None:
            raise self._foreign(step, other)
        restore_args = ocp.checkpoint_utils.construct_restore_args(fields)
        arguments = ocp.args.PyTreeRestore(
            item=fields, restore_args=restore_args, partial_restore=True
        )
        with _asked(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            found = reader.restore(str(folder / _STATE), args=arguments)
        return type(layout)(**found)


def _fields(state: Any) -> dict[str, Any]:
    """The trees of a state, or of its layout, by their top-level names."""
    return state._asdict() if hasattr(state, "_asdict") else dict(state)


@contextmanager
def _asked(folder: StoragePath) -> Iterator[None]:
    """Makes one line of what TensorStore says of a bucket that can't be read any more."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(folder, Remote):
            raise
        raise StoreError(f"checkpoint {folder} can't be read ({folder.explain(error)})") from None


def _reason(error: Exception, folder: StoragePath) -> str:
    """Why a write failed, in the system's words where it was the system that refused it."""
    if isinstance(folder, Remote):
        return str(error) if isinstance(error, UserError) else folder.explain(error)
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return (isinstance(error, OSError) and error.strerror) or first_line(error)
