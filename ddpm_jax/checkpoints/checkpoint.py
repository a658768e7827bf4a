"""Checkpoints: Orbax arrays, the config that made them, and a checksum of every file.

    checkpoints/
      12000/
        state/           what Orbax writes: the fields of the training state
        arrays.json      shape and type of each array, by its dotted name
        meta.json        format, the whole config, what the data were, and the code that wrote it
        checksums.json   SHA-256 of every other file
      13000.tmp/         being written, or left by a kill: never read, removed by the next save

This is the layout on a disk; `checkpoints.commit` says how it differs in a bucket. A checkpoint
that does not match its checksums was altered. It is reported and passed over: Orbax alone would
silently restore wrong numbers from a flipped bit.
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import jax
import orbax.checkpoint as ocp

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.best import Best, read_best, write_best
from ddpm_jax.checkpoints.commit import META, commit_in, damage, first_line
from ddpm_jax.checkpoints.explaining import asked, reason_of, require_path
from ddpm_jax.checkpoints.lifting import sources
from ddpm_jax.checkpoints.manifest import (
    Manifest,
    by_name,
    difference,
    from_text,
    keystr,
    manifest_of,
    nested,
    of_fields,
    shapes_of,
    to_text,
    tree_of,
)
from ddpm_jax.checkpoints.quiet import Quiet
from ddpm_jax.checkpoints.writer import Writer
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.files import StoragePath, storage_path
from ddpm_jax.runtime.distributed import BarrierAborted, allgather, is_alone, is_first, versions
from ddpm_jax.runtime.mesh import with_shardings

_STATE, _ARRAYS = "state", "arrays.json"


class Checkpoints:
    """The checkpoints of one run folder; saving goes on in the background."""

    def __init__(
        self,
        run: str | StoragePath,
        *,
        report: Callable[[str], None] | None = None,
        place: str = "checkpoints",
    ):
        """`place` is their folder in the run's. `report` gets a line for each damaged checkpoint
        that is passed over, and for each that can't be removed. Raises UserError for a folder whose
        name Orbax can't take.
        """
        self.run = storage_path(run)
        self.folder = self.run.absolute() / place
        require_path(self.folder)
        self._commit = commit_in(self.folder)
        self._report = report or (lambda line: None)
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
        before_commit: Callable[[], None] = lambda: None,
        best: Best | None = None,
    ) -> None:
        """Copies the state to the host, then writes it in the background; all processes call it.

        When it is on disk, older checkpoints are removed, except the newest `keep` (None keeps
        all), the multiples of `keep_every`, step 0, and the best; `best` marks this one. A save
        that fails removes none and raises nothing: `problem` and `wait` report it. `data` describes
        the data, for a resume to compare. `before_commit` is called in the background before the
        checkpoint counts, to store what belongs to the steps before it.
        """
        self.join()
        failure, texts = None, {}
        try:
            meta = {"format": configs.FORMAT, "step": step, "config": configs.to_dict(config)}
            meta |= {"data": data, "versions": versions()}
            texts[META] = json.dumps(meta, indent=2) + "\n"
            texts[_ARRAYS] = to_text(manifest_of(by_name(_fields(state))))
            if is_first():
                self._commit.begin(step)
        except Exception as error:
            failure = error
        # Orbax begins by waiting for all devices, so all processes must call it, or none.
        if self._reason_of_any(failure) is not None:
            failure = failure or BarrierAborted()
        else:
            failure = self._start(step, state)
        arguments = (step, texts, keep, keep_every, before_commit, best, failure)
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
        before_commit: Callable[[], None],
        best: Best | None,
        failure: Exception | None,
    ) -> None:
        """Ends a save in the background; if it failed on one process, it fails on all."""
        try:
            if failure is None and self._writer is not None:
                self._writer.wait()
        except Exception as error:  # Reported in the caller's thread.
            failure = error
        if failure is not None and self._writer is not None:
            self._writer.give_up()
        reason = self._reason_of_any(failure)
        failure = None
        try:
            if reason is None and is_first():
                before_commit()
                self._seal(step, texts)
                if best is not None:
                    self.mark_best(best)
                if keep is not None:
                    self._prune(step, keep, keep_every)
        except Exception as error:
            failure = error
        reason = reason or self._reason_of_any(failure)
        if reason is not None:
            self._give_up(step, reason)

    def _reason_of_any(self, failure: Exception | None) -> str | None:
        """Returns why a save failed on the first process where it did; all processes call it."""
        own = None if failure is None else reason_of(failure, self.folder)
        if own is not None and not is_alone():
            own = f"{own}, on {socket.gethostname()}"
        said = [
            each
            for each in allgather("save", [isinstance(failure, BarrierAborted), own])
            if each[1]
        ]
        # A process that merely waited for another one does not know the reason.
        return min(said, key=lambda each: each[0], default=[False, None])[1]

    def _give_up(self, step: int, reason: str) -> None:
        if self._quiet is not None:
            self._quiet.stay()
        # A writer that failed once may go on failing, and what it wrote only takes space.
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
        best = self.best()
        # Later ones are damaged, or the run would have gone on from them: they must not count.
        found = [step for step in self._commit.old(newest) if best is None or step != best.step]
        for step in found[:-keep]:
            # Step 0 has the weights that the run starts from.
            if step and (keep_every is None or step % keep_every):
                self._remove(step)

    def remove_after(self, step: int) -> None:
        """Removes all of later steps; one process calls it."""
        for later in self._commit.steps():
            if later > step:
                self._remove(later)

    def _remove(self, step: int) -> None:
        try:
            self._commit.remove(step)
        except OSError as error:  # The new one counts all the same.
            why = reason_of(error, self.folder)
            self._report(f"checkpoint {self.folder / str(step)} can't be removed ({why})")

    # --- the best ---

    def best(self) -> Best | None:
        """Returns the best checkpoint, as it was marked, if it still exists."""
        best = read_best(self.folder)
        return best if best is not None and best.step in self.steps() else None

    def mark_best(self, best: Best | None) -> None:
        """Marks a finished checkpoint as the best; None marks none. One process calls it.

        The one before is removed if it was saved for nothing else. Raises OSError if the mark can't
        be written.
        """
        before = self.best()
        write_best(self.folder, best)
        if best is None or before is None or before.scheduled or before.step == best.step:
            return
        self._remove(before.step)

    def problem(self) -> str | None:
        """Returns, only once and without waiting, why the last save failed; None if it did not."""
        failure, self._failure = self._failure, None
        return failure

    def join(self) -> None:
        """Waits for the save under way; `problem` then says whether it failed."""
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
                "free some space there, or repair the folder, then run the same command again"
            )

    def close(self) -> None:
        """Waits for the save under way and ends Orbax's threads."""
        self.join()
        for part in (self._writer, self._quiet):
            if part is not None:
                part.close()
        self._writer = self._quiet = None

    # --- reading ---

    def newest_good(
        self, step: int | str | None = None, *, at_most: int | None = None
    ) -> int | None:
        """Returns `step`, or the newest checkpoint whose files all match their checksums.

        "best" is the step of the best one. With `at_most`, later ones are ignored. Returns None if
        there is no checkpoint at all. Raises UserError if the step asked for does not exist or is
        damaged, or if every checkpoint is damaged.
        """
        wanted = step
        if step == "best":
            best = self.best()
            if best is None:
                why = "training keeps one with validation.keep_best; name a step"
                raise UserError(f"{self.folder} has no best checkpoint: {why}, or none")
            step = best.step
        steps = [found for found in self.steps() if at_most is None or found <= at_most]
        if step is not None:
            if step not in steps:
                have = ", ".join(map(str, steps)) or "none"
                raise UserError(f"{self.folder} has no checkpoint {step}; it has {have}")
            steps = [step]
        for candidate in reversed(steps):
            if self.is_good(candidate):
                return candidate
        if not {*steps} <= {*self.steps()}:  # A run that trains removed them meanwhile.
            return self.newest_good(wanted, at_most=at_most)
        if step is not None:
            others = ", ".join(str(found) for found in self.steps() if found != step) or "none"
            raise UserError(
                f"checkpoint {self.folder / str(step)} is damaged: put it back, or name another: "
                f"{others}"
            )
        if steps:
            raise UserError(
                f"no good checkpoint is left in {self.folder}: put one back, "
                "or train again in another folder"
            )
        return None

    def is_good(self, step: int) -> bool:
        """Whether the files of a step match their checksums; reports what is wrong if not."""
        found = damage(self.folder / str(step))
        if found is not None and step in self.steps():
            self._report(f"checkpoint {self.folder / str(step)} is damaged: {found}")
        return found is None

    def config(self, step: int) -> Config:
        """Returns the whole config that a checkpoint was trained with."""
        meta = self._meta(step)
        try:
            return configs.from_saved({**meta["config"], "format": meta["format"]})
        except UserError as error:
            raise self._unreadable(step, meta, error) from None

    def data(self, step: int) -> dict[str, Any] | None:
        """Returns the description of the data that a checkpoint was saved with, if any."""
        return self._meta(step).get("data")

    def shapes(self, step: int, field: str) -> Any | None:
        """Returns a field's arrays as shapes, if exactly this code wrote the checkpoint.

        They are then the shapes of the config's network, and tracing the network is not needed. A
        field is a dotted name: `params`, or `ema.ema`.
        """
        meta = self._meta(step)
        if meta["format"] != configs.FORMAT or meta.get("versions") != versions():
            return None
        return tree_of(self._saved(step), field)

    def difference(self, step: int, layout: Any) -> str | None:
        """Returns how the first array of `layout` differs from the checkpoint's, or None."""
        fields = _fields(layout)
        with asked(self.folder / str(step)):
            lifted = jax.eval_shape(self._lift(step), shapes_of(self._saved(step)))
        return difference(
            of_fields(manifest_of(lifted), list(fields)), manifest_of(by_name(fields))
        )

    def restore(self, step: int, layout: Any) -> Any:
        """Restores a checkpoint into the shapes and shardings of `layout`, on any devices.

        `layout` is a NamedTuple of trees of `jax.ShapeDtypeStruct`, or a mapping of them whose keys
        are fields (dotted names, as `ema.ema`); the arrays of other fields are not read. A
        checkpoint of an older format is lifted to today's. Raises UserError, naming the first array
        that differs, if it is of another network.
        """
        other = self.difference(step, layout)
        if other is not None:
            raise self._foreign(step, other)
        fields = _fields(layout)
        targets = by_name(fields)
        if self._meta(step)["format"] == configs.FORMAT:
            # A field without arrays is nothing to Orbax.
            item = nested({name: tree for name, tree in fields.items() if jax.tree.leaves(tree)})
            found = by_name(self._read(step, item, partial_restore=True)) if item else {}
        else:
            found = self._read_lifted(step, targets) if targets else {}
        structure = jax.tree.structure(list(fields.values()))
        trees = jax.tree.unflatten(structure, [found[name] for name in targets])
        return type(layout)(**dict(zip(fields, trees, strict=True)))

    def _read(self, step: int, item: Any, **options: Any) -> Any:
        """Reads the arrays that a tree of shapes names, into their shardings."""
        folder = self.folder / str(step)
        restore_args = ocp.checkpoint_utils.construct_restore_args(item)
        arguments = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, **options)
        with asked(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(str(folder / _STATE), args=arguments)

    def _read_lifted(self, step: int, targets: dict[str, Any]) -> dict[str, Any]:
        """Reads today's arrays, by name, from those of an older format, into their shardings."""
        shapes, lift = shapes_of(self._saved(step)), self._lift(step)
        names = sources(shapes, lift, wanted=targets.__contains__)
        # Sharded as training had them, so that no device holds an array that it should not.
        mesh = next(iter(targets.values())).sharding.mesh
        layout = with_shardings({name: shapes[name] for name in names}, mesh)
        folder = self.folder / str(step)
        with asked(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            # Orbax wants the saved tree's own structure, with its tuples and its empty nodes.
            tree: Any = reader.metadata(str(folder / _STATE)).item_metadata
        if tree is None:
            raise self._foreign(step, "arrays that Orbax can't list")
        item = jax.tree_util.tree_map_with_path(
            lambda path, _: layout.get(keystr(path), ocp.PLACEHOLDER), tree.tree
        )
        leaves = jax.tree.leaves_with_path(self._read(step, item))
        saved = {keystr(path): leaf for path, leaf in leaves if keystr(path) in layout}
        wanted = {name: target.sharding for name, target in targets.items()}
        compiled = jax.jit(
            lambda arrays: {name: it for name, it in lift(arrays).items() if name in wanted},
            out_shardings=wanted,
        )
        return compiled(saved)

    def _lift(self, step: int) -> Callable[[Any], Any]:
        """Returns the function from the saved arrays to today's, both by name."""
        meta = self._meta(step)
        return lambda arrays: configs.lift_arrays(arrays, meta["config"], meta["format"])

    def _saved(self, step: int) -> Manifest:
        try:
            return from_text((self.folder / str(step) / _ARRAYS).read_text())
        except FileNotFoundError:
            raise self._foreign(step, f"no {_ARRAYS}") from None

    def _foreign(self, step: int, what: str) -> UserError:
        return UserError(
            f"checkpoint {self.folder / str(step)} has {what}: it was written by other code; "
            "go on with that code, or choose another folder"
        )

    def _meta(self, step: int) -> dict[str, Any]:
        """Returns meta.json; raises UserError if the format is newer than this code."""
        try:
            meta = {"format": 0, **json.loads((self.folder / str(step) / META).read_text())}
        except (ValueError, TypeError) as error:
            raise self._foreign(step, f"a {META} that can't be read: {first_line(error)}") from None
        try:
            configs.check_format(meta["format"])
        except UserError as error:
            raise self._unreadable(step, meta, error) from None
        if not isinstance(meta.get("config"), dict):
            raise self._foreign(step, f"no config in its {META}")
        return meta

    def _unreadable(self, step: int, meta: dict[str, Any], error: UserError) -> UserError:
        """Returns an error about a checkpoint's settings that names the version of its writer."""
        found = meta.get("versions")
        writer = found.get("ddpm_jax") if isinstance(found, dict) else None
        by = f" of ddpm_jax {writer}" if writer else ""
        return UserError(f"checkpoint {self.folder / str(step)}{by}: {error}")


def _fields(state: Any) -> dict[str, Any]:
    """Returns the trees of a state, or of its layout, by their fields."""
    return state._asdict() if hasattr(state, "_asdict") else dict(state)
