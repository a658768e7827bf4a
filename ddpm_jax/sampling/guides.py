"""What guides a chain besides its own network: a weaker run, and a classifier."""

from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.config import SampleConfig
from ddpm_jax.data.classes import find_labels
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import Experiment


class Guides(NamedTuple):
    """The two, or something about each of them; None for one that is not there."""

    weaker: Any = None
    """Guidance leads away from it, in the place of the same network without its label."""
    classifier: Any = None
    """Its gradient leads to the class asked for."""

    @property
    def experiments(self) -> "Guides":
        """The experiments of guides that are runs."""
        return Guides(*(None if each is None else each.experiment for each in self))

    def fractional_times(self, guided: Experiment) -> bool:
        """Whether these experiments and the one they guide take times between whole numbers."""
        return all(each.model.fractional_times for each in (guided, *self) if each is not None)


NO_GUIDES = Guides()


def labelled(experiment: Experiment, guides: Guides) -> Experiment:
    """Returns the experiment whose labels the samples have: its own, or else a classifier's."""
    return experiment if experiment.num_classes else guides.classifier or experiment


def check_guides(experiment: Experiment, guides: Guides) -> None:
    """Raises UserError for experiments that can't guide this one: `--guide`, `--classifier`."""
    if guides.weaker is not None:
        weaker: Experiment = guides.weaker
        require_samples("guide", weaker)
        _require_alike("guide", experiment, weaker)
        theirs, own = (it.config.diffusion.condition.name for it in (weaker, experiment))
        if theirs != own:
            raise UserError(
                f"guide: its diffusion.condition is {theirs}, and that of this run is {own}; give "
                "a run with the same"
            )
        if weaker.num_classes not in (0, experiment.num_classes):
            _refuse_classes("guide", experiment, weaker)
        if weaker.num_classes:
            _require_names("guide", experiment, weaker)

    if guides.classifier is not None:
        classifier: Experiment = guides.classifier
        if not classifier.classifies:
            raise UserError(
                "classifier: its objective is "
                f"{classifier.config.diffusion.objective.name}; give a run that was trained with "
                "diffusion.objective classification, as ddpm train digits_classifier"
            )
        _require_alike("classifier", experiment, classifier)
        if experiment.num_classes not in (0, classifier.num_classes):
            _refuse_classes("classifier", experiment, classifier)
        _require_names("classifier", experiment, classifier)


def negative_class(experiment: Experiment, options: SampleConfig) -> int:
    """Returns the label of `options.negative_label`; raises UserError if there is no such class."""
    names, count = experiment.class_names, experiment.num_classes
    return int(find_labels(options.negative_label, names, count)[0])


def check_options(experiment: Experiment, options: SampleConfig, guides: Guides) -> None:
    """Raises UserError for guidance that this network, with these guides, can't give."""
    if options.guidance == 0:
        if guides.weaker is not None:
            raise UserError("sample.guidance is 0; it must be above 0 for a guide, as --guidance 1")
        return
    if options.negative_label is not None:
        if not experiment.num_classes:
            raise UserError(
                f"sample.negative_label is {options.negative_label!r}; it must be left out, "
                "because this network was trained without labels"
            )
        negative_class(experiment, options)
    elif guides.weaker is None and experiment.config.train.label_dropout == 0:
        raise UserError(
            "sample.guidance needs a network trained with some labels dropped "
            "(train.label_dropout above 0), and this one was not; or give a weaker run, as "
            "--guide RUN@STEP"
        )


def require_samples(name: str, experiment: Experiment) -> None:
    """Raises UserError for a network that draws no samples."""
    if experiment.classifies:
        raise UserError(
            f"{name} is a classifier (diffusion.objective classification), which draws no samples; "
            "it can guide another run, as --classifier"
        )


def _require_alike(name: str, experiment: Experiment, other: Experiment) -> None:
    """Raises UserError unless both see the same x_t at the same t."""
    shapes = [each.config.data.example_shape for each in (other, experiment)]
    if shapes[0] != shapes[1]:
        theirs, own = ("×".join(map(str, shape)) for shape in shapes)
        raise UserError(f"{name}: its examples are {theirs}, and those of this run are {own}")
    theirs, own = other.schedule.alpha_bar, experiment.schedule.alpha_bar
    if not np.array_equal(theirs, own):
        raise UserError(
            f"{name}: its noise schedule, of T = {other.schedule.T}, is not that of this run, of "
            f"T = {experiment.schedule.T}; give a run with the same diffusion.schedule"
        )


def _refuse_classes(name: str, experiment: Experiment, other: Experiment) -> None:
    raise UserError(
        f"{name}: it has {other.num_classes or 'no'} classes, and this run "
        f"{experiment.num_classes or 'none'}; give a run of the same classes"
    )


def _require_names(name: str, experiment: Experiment, other: Experiment) -> None:
    names = experiment.class_names, other.class_names
    if all(names) and names[0] != names[1]:
        raise UserError(f"{name}: its classes have other names than those of this run")
