"""What an evaluation knows of the two sets, and of a run, before it reads any example."""

from typing import NamedTuple

from ddpm_jax.diffusion import NoiseSchedule


class Facts(NamedTuple):
    """The facts from which features and metrics decide whether they apply.

    `num_real` and `num_samples` count the examples. `real_classes` counts the classes of the real
    examples, `sample_classes` those that the samples were drawn of; 0 without labels. `features`
    is the row of FEATURES that was chosen, or empty while none is. `num_training` counts what
    features may learn from, if that is not the real examples.
    """

    shape: tuple[int, ...]
    sample_shape: tuple[int, ...]
    num_real: int
    num_samples: int
    real_classes: int
    sample_classes: int
    features: str = ""
    num_training: int | None = None

    @property
    def labelled(self) -> bool:
        """Whether both sets have labels, of at least two classes."""
        return self.real_classes > 1 and self.sample_classes > 1


class RunFacts(NamedTuple):
    """The facts from which a measurement decides whether it applies to a run."""

    shape: tuple[int, ...]
    schedule: NoiseSchedule
    learned_variance: bool
    fractional_times: bool
    """Whether the network takes times between whole ones."""
