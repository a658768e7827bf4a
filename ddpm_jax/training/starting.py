"""Where a run's first parameters come from, if they are not drawn: another run, other weights."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ddpm_jax import config as configs
from ddpm_jax.checkpoints.checkpoint import Checkpoints
from ddpm_jax.checkpoints.explaining import require_path
from ddpm_jax.checkpoints.manifest import by_name, keystr
from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment
from ddpm_jax.files import StoragePath, exclusive, replacing, storage_path
from ddpm_jax.sampling.run import load
from ddpm_jax.tables import defaults_of, signature_of
from ddpm_jax.training.state import TrainState, first_state
from ddpm_jax.training.step import draw_state, state_layout
from ddpm_jax.weights.formats import READERS, import_weights

# Settings of the network in which it may differ from the one that it starts from.
_MAY_DIFFER = ("model.num_classes", "model.dropout", "model.dtype", "model.remat")
# With another of these, the network has learned to put out something else.
_MEANING = ("diffusion.prediction", "diffusion.schedule", "diffusion.timesteps")


class FirstWeights(NamedTuple):
    """The parameters that a run starts from."""

    arrays: dict[str, np.ndarray]
    """By dotted name; what is missing here is drawn."""
    lines: list[str]
    """What is to be told about them."""


def first_weights(experiment: Experiment) -> FirstWeights | None:
    """Reads what the config's `init` names; returns None if it names nothing.

    It is a run, whose first average is taken, or FORMAT:SOURCE. The number of classes and the
    channels of the data may be others; then the parameters without a partner of the same shape are
    drawn. Raises UserError for what can't be read, and for another network.
    """
    config, name = experiment.config, experiment.config.init
    if name is None:
        return None
    donor, params = _donor(name)
    changed = configs.differences(donor, config)
    for setting, (old, new) in changed.items():
        if setting.startswith("model.") and setting not in _MAY_DIFFER:
            raise UserError(
                f"init {name} has {setting} = {old!r}, and this config has {new!r}; start from the "
                "same network"
            )
    have, wanted = by_name(params), by_name(experiment.param_shapes)
    kept = {
        each: np.asarray(have[each])
        for each, leaf in wanted.items()
        if each in have and have[each].shape == leaf.shape
    }
    if not kept:
        raise UserError(f"init {name} has no parameter of this network; start from the same one")
    lines = [f"starts from {name}: {len(kept)} of {len(wanted)} arrays of parameters"]
    if fresh := [each for each in wanted if each not in kept]:
        lines.append(f"drawn afresh, because it is new or has another shape: {', '.join(fresh)}")
    if left := [each for each in have if each not in wanted]:
        lines.append(f"left out, because this network has no such part: {', '.join(left)}")
    lines += [
        f"{setting} was {changed[setting][0]!r} there, and is {changed[setting][1]!r} here"
        for setting in _MEANING
        if setting in changed
    ]
    return FirstWeights(kept, lines)


def _donor(name: str) -> tuple[Config, Any]:
    form, colon, source = name.partition(":")
    if not colon or form not in READERS:
        run = load(name, local=True)
        return run.config, run.params
    needed = signature_of(READERS[form]).keys() - defaults_of(READERS[form])
    if needed:
        raise UserError(
            f"init {name}: the format {form} needs {', '.join(sorted(needed))}, for which a config "
            "has no place; make a run of it by ddpm import, and name that run"
        )
    found = import_weights(form, source, configs.load_file("folder"))
    return found.config, found.params


def begin_state(
    experiment: Experiment,
    mesh: Mesh,
    checkpoints: Checkpoints,
    data: Mapping[str, Any],
    weights: FirstWeights | None,
) -> TrainState:
    """Returns the state before the first step, of a new run or of one that comes back to it.

    Weights that a run starts from become its checkpoint 0, and are read from there; `data` is what
    that one records. Raises UserError if the run started from weights that are no longer there.
    """
    layout = state_layout(experiment, mesh)
    if 0 in checkpoints.steps():
        params = checkpoints.restore(0, {"params": layout.params})["params"]
        return state_of(experiment, mesh, params)
    if weights is None and experiment.config.init is not None:
        raise UserError(
            f"{checkpoints.folder} has no checkpoint 0, with the weights of "
            f"{experiment.config.init} that the run started from: put it back, or train again in "
            "another folder"
        )
    state = start_state(experiment, mesh, weights)
    if weights is not None:
        _save_weights(checkpoints, state.params, experiment.config, data)
    return state


def start_state(experiment: Experiment, mesh: Mesh, weights: FirstWeights | None) -> TrainState:
    """Returns the state before the first step: drawn, and with these parameters in their places."""
    state = draw_state(experiment, mesh)
    if weights is None:
        return state

    def placed(path: Any, leaf: jax.Array) -> jax.Array:
        array = weights.arrays.get(keystr(path))
        if array is None:
            return leaf
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, array.__getitem__)

    return state_of(experiment, mesh, jax.tree_util.tree_map_with_path(placed, state.params))


def state_of(experiment: Experiment, mesh: Mesh, params: Any) -> TrainState:
    """Returns the state before the first step with these parameters, which are donated."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state_layout(experiment, mesh))
    begin = functools.partial(first_state, experiment)
    # Donated, so that no two leaves of the state share a buffer.
    return jax.jit(begin, out_shardings=shardings, donate_argnums=0)(params)


def write_first(
    config: Config, params: Any, workdir: str | StoragePath, class_names: Sequence[str] = ()
) -> None:
    """Makes a run folder with one checkpoint, of step 0: these parameters alone.

    `class_names` are those of the labels; training goes on with data of the same classes only.
    Raises UserError if the folder is not empty, or can't be written.
    """
    run = storage_path(workdir)
    checkpoints = Checkpoints(run)
    require_path(run.absolute(), writes=True)
    _require_free(checkpoints)
    with exclusive(run, report=lambda line: None):
        _require_free(checkpoints)
        with replacing(run / "config.json") as beside:
            beside.write_text(configs.dumps(config))
        try:
            known = {"classes": list(class_names)} if class_names else None
            _save_weights(checkpoints, params, config, known)
            checkpoints.wait()
        finally:
            checkpoints.close()


def _require_free(checkpoints: Checkpoints) -> None:
    """Raises UserError if a folder holds more than an import that was stopped leaves in it."""
    run, left = checkpoints.run, {".lock", "config.json", "checkpoints"}
    if not run.exists():
        return
    if not run.is_dir() or checkpoints.steps() or {each.name for each in run.iterdir()} - left:
        raise UserError(f"{run} is there already; name a new folder for the run")


def _save_weights(
    checkpoints: Checkpoints, params: Any, config: Config, data: Mapping[str, Any] | None
) -> None:
    # The optimizer and the averages begin anew, so nothing of them is kept.
    checkpoints.save(0, {"params": params}, config, keep=None, keep_every=None, data=data)
