"""The whole chain of a run in one file, for a program that has JAX and not this package.

JAX reads what it exported for six months at least, so the file is for use, not for keeping.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from ddpm_jax.config import Config
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.models.conditioning import NO_CONDITIONING
from ddpm_jax.ops import REFERENCE
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.guides import require_samples
from ddpm_jax.weights.contract import numbered
from ddpm_jax.weights.tensors import import_package

FILE = "sample.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(config: Config, class_names: Sequence[str], params: Any, folder: Path) -> Sequence[str]:
    """Writes `(seed uint32, numbers uint32 [b], labels int32 [b]) -> samples [b, H, W, C]`.

    Labels only where the network takes some; b may be any number. The sampler and its settings are
    the config's. It is made of reference operations, which every platform computes alike.
    """
    import_package(folder, "flatbuffers")  # JAX serialises with it.
    experiment = build(config)
    require_samples("stablehlo: the run", experiment)
    if experiment.is_shown:
        raise UserError(
            f"stablehlo: with diffusion.condition {config.diffusion.condition.name} the network is "
            "shown something for each sample, and the file takes only labels; export another run"
        )
    model: Any = experiment.model
    experiment = dataclasses.replace(experiment, model=model.clone(ops=REFERENCE))
    program = SampleProgram(experiment, make_mesh(1, jax.devices()[:1]), config.sample)
    inside = jax.tree.map(np.asarray, params)

    def sample(seed: Any, numbers: Any, labels: Any = None) -> Any:
        conditioning = NO_CONDITIONING._replace(labels=labels)
        return program.traced(inside, seed, numbers, conditioning)

    (count,) = export.symbolic_shape("b")
    arguments = [((), np.uint32), ((count,), np.uint32), ((count,), np.int32)]
    arguments = arguments if experiment.num_classes else arguments[:2]
    shapes = [jax.ShapeDtypeStruct(*each) for each in arguments]
    exported = export.export(jax.jit(sample), platforms=PLATFORMS)(*shapes)
    data = exported.serialize()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(data)
    takes = "seed, numbers, labels" if experiment.num_classes else "seed, numbers"
    steps = len(program.times) - 1
    return (f"{folder / FILE} computes sample({takes}) of {steps} steps", *numbered(class_names))
