"""Runs that guide another one: weaker ones, and classifiers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.cli import sample as command
from ddpm_jax.config import MlpConfig, PointsData, UNetEncoderConfig
from ddpm_jax.diffusion.losses import class_log_probabilities
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.denoiser import make_denoiser
from ddpm_jax.sampling.guides import Guides
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import sample_shards
from ddpm_jax.typing import Conditioning
from tests.sampling.programs import program
from tests.tiny import TINY, changed

PLAIN = changed(
    TINY,
    sample={"clipping": "none", "steps": 4},
    train={"label_dropout": 0.0},
    model={"dropout": 0.0},
)
UNLABELLED = changed(PLAIN, model={"num_classes": 0})
CLASSIFIER = dataclasses.replace(
    changed(PLAIN, diffusion={"objective": "classification"}),
    model=UNetEncoderConfig(channels=8, multipliers=(1,), blocks=1, attention=(), num_classes=10),
)
X_T = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), np.float32)
T = jnp.asarray(12)
LABELS = jnp.array([3, 1, 4, 1])


def run_of(config, seed=0, names=(), step=6):
    """A run whose parameters are random, and so whose outputs are not zero."""
    experiment = dataclasses.replace(build(config), class_names=tuple(names))
    leaves, tree = jax.tree.flatten(experiment.param_shapes)
    random = np.random.default_rng(seed)
    params = [0.2 * random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    mesh = make_mesh(devices=jax.devices()[:1])
    folder = storage_path(f"runs/{seed}")
    return Run(folder, step, experiment, tree.unflatten(params), name="ema", mesh=mesh)


@pytest.fixture(scope="module")
def labelled():
    return run_of(PLAIN)


@pytest.fixture(scope="module")
def unlabelled():
    return run_of(UNLABELLED, 1)


@pytest.fixture(scope="module")
def classifier():
    return run_of(CLASSIFIER, 2)


def eps(run, labels, weight=0.0, guides=Guides(), **settings):  # noqa: B008
    options = dataclasses.replace(PLAIN.sample, guidance=weight, **settings)
    denoiser = make_denoiser(
        run.experiment,
        run.params,
        Conditioning(labels),
        options,
        guides=guides.experiments,
        guide_params=Guides(*(each and each.params for each in guides)),
    )
    return denoiser(X_T, T).eps  # type: ignore[operator]


def test_a_weaker_run_is_what_guidance_leads_away_from(labelled):
    """It sees the same label, or the negative one; without classes it sees none."""
    other, none = run_of(PLAIN, 3), run_of(UNLABELLED, 4)
    strong = eps(labelled, LABELS)
    assert np.abs(strong - eps(other, LABELS)).max() > 1e-2
    for weaker, weak, negative in (
        (other, eps(other, LABELS), None),
        (other, eps(other, jnp.full(4, 7)), 7),
        (none, eps(none, None), None),
        (None, eps(labelled, jnp.full(4, 7)), 7),
    ):
        found = eps(labelled, LABELS, 1.5, Guides(weaker), negative_label=negative)
        np.testing.assert_allclose(found, strong + 1.5 * (strong - weak), atol=1e-4)


def test_a_classifiers_gradient_is_that_of_each_examples_label(unlabelled, classifier):
    def log_p(x, label):
        output = classifier.experiment.apply(
            classifier.params, x[None], T, Conditioning(), train=False
        )
        return class_log_probabilities(output)[0, label]

    slope = jax.vmap(jax.grad(log_p))(X_T, LABELS)
    assert np.abs(slope).max() > 1e-4
    noise = unlabelled.experiment.schedule.sqrt_one_minus_alpha_bar[12]
    found = eps(unlabelled, LABELS, guides=Guides(None, classifier), classifier_scale=50.0)
    expected = eps(unlabelled, None) - 50 * noise * slope
    np.testing.assert_allclose(found, expected, atol=1e-4)
    outside = {"guidance_interval": (50.0, 60.0), "classifier_scale": 50.0}
    rest = eps(unlabelled, LABELS, guides=Guides(None, classifier), **outside)
    np.testing.assert_allclose(rest, eps(unlabelled, None), atol=1e-6)


def test_a_run_without_labels_draws_the_classes_of_its_classifier(unlabelled, classifier):
    guided = unlabelled.guided(classifier=classifier)
    assert (unlabelled.num_classes, guided.num_classes) == (0, 10)
    drawn = guided.sample(4, labels=[3, 1], classifier_scale=50.0)
    np.testing.assert_array_equal(drawn.labels, [3, 1, 3, 1])
    one = guided.sample(1, first=1, labels=[1], classifier_scale=50.0)
    np.testing.assert_allclose(one.samples[0], drawn.samples[1], atol=1e-4)
    np.testing.assert_array_equal(guided.sample(12).labels, [*range(10), 0, 1])
    none, plain = guided.sample(4, classifier_scale=0.0), unlabelled.sample(4)
    np.testing.assert_allclose(none.samples, plain.samples, atol=1e-5)
    assert np.abs(drawn.samples - plain.samples).max() > 1e-2


def test_a_folder_says_what_guided_its_samples(labelled, tmp_path):
    guided = labelled.guided(run_of(PLAIN, 3, step=2))
    folder = storage_path(tmp_path / "s")
    sample_shards(guided, folder, 4, guidance=1.0, batch_size=2)
    about = json.loads((folder / "samples.json").read_text())
    assert (about["weaker"]["step"], about["classifier"]) == (2, None)
    assert about["weaker"]["digest"] != about["digest"]
    for other in (labelled.guided(run_of(PLAIN, 5, step=2)), run_of(PLAIN, 0)):
        with pytest.raises(UserError, match=r"holds samples with weaker = |needs a network"):
            sample_shards(other, folder, 4, guidance=1.0, batch_size=2)


def test_momentum_is_the_same_on_any_number_of_devices(trained):
    asked = {"guidance_method": "adaptive_projected", "guidance": 2.0, "clipping": "none"}
    still = program(trained[0], **asked)(trained[1], 8, seed=3)
    moving = {"guidance_method.momentum": -0.5, **asked}
    one, eight = (
        program(trained[0], devices, **moving)(trained[1], 8, seed=3) for devices in (1, 8)
    )
    np.testing.assert_allclose(one.samples, eight.samples, atol=1e-3)
    assert np.abs(one.samples - still.samples).max() > 1e-2


def test_an_interval_counts_the_calls_where_guidance_acts(trained):
    schedule = trained[0].schedule
    low, high = schedule.log_snr[15] - 0.01, schedule.log_snr[11] + 0.01
    chain = program(trained[0], guidance=1.0, guidance_interval=(low, high))
    assert chain.calls == 20 + 5
    whole = program(trained[0], guidance=1.0, guidance_interval=(-1e3, 1e3))(trained[1], 4, seed=0)
    plain = program(trained[0], guidance=1.0)(trained[1], 4, seed=0)
    np.testing.assert_allclose(whole.samples, plain.samples, atol=1e-5)
    part = chain(trained[1], 4, seed=0).samples
    assert np.abs(part - plain.samples).max() > 1e-3


OTHER_T = changed(PLAIN, diffusion={"timesteps": 21})
SEVEN = changed(PLAIN, model={"num_classes": 7})
POINTS = dataclasses.replace(UNLABELLED, data=PointsData(), model=MlpConfig(width=4, layers=1))


@pytest.mark.parametrize(
    ("own", "guide", "classifier", "message"),
    [
        (PLAIN, OTHER_T, None, "guide: its noise schedule, of T = 21, is not that of this run, of"),
        (PLAIN, POINTS, None, "guide: its examples are 2, and those of this run are 8×8×1"),
        (PLAIN, SEVEN, None, "guide: it has 7 classes, and this run 10; give a run of the same"),
        (UNLABELLED, PLAIN, None, "guide: it has 10 classes, and this run none; give a run of the"),
        (PLAIN, CLASSIFIER, None, "guide is a classifier (diffusion.objective classification), "),
        (PLAIN, None, PLAIN, "classifier: its objective is simple; give a run that was trained"),
        (SEVEN, None, CLASSIFIER, "classifier: it has 10 classes, and this run 7; give a run of"),
        (OTHER_T, None, CLASSIFIER, "classifier: its noise schedule, of T = 20, is not that of"),
    ],
)
def test_runs_that_do_not_fit_are_refused(own, guide, classifier, message):
    def named(config):
        return None if config is None else run_of(config)

    with pytest.raises(UserError) as caught:
        run_of(own).guided(named(guide), named(classifier))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_classes_of_other_names_are_refused(classifier):
    names = [str(k) for k in range(10)]
    own, other = run_of(PLAIN, names=names), run_of(PLAIN, names=names[::-1])
    with pytest.raises(UserError, match="guide: its classes have other names"):
        own.guided(other)
    with pytest.raises(UserError, match="classifier: its classes have other names"):
        own.guided(classifier=run_of(CLASSIFIER, names=names[::-1]))
    assert own.guided(classifier=run_of(CLASSIFIER, names=names)).class_names == tuple(names)


def test_guidance_that_is_not_possible_is_refused(labelled, unlabelled, classifier):
    for run, settings, message in (
        (labelled.guided(run_of(PLAIN, 3)), {}, r"sample.guidance is 0; it must be above 0 for a"),
        (unlabelled, {"guidance": 1.0}, r"needs a network trained with some labels dropped"),
        (
            unlabelled,
            {"guidance": 1.0, "negative_label": 3},
            r"negative_label is 3; it must be left out",
        ),
        (labelled, {"guidance": 1.0, "negative_label": 12}, "there is no class 12"),
        (classifier, {}, r"runs/2 is a classifier \(diffusion.objective classification\)"),
    ):
        with pytest.raises(UserError, match=message):
            run.sample(2, **settings)


@pytest.mark.parametrize(
    ("named", "opened"),
    [
        ("runs/a", ("runs/a", None)),
        ("runs/a@400", ("runs/a", 400)),
        ("gs://b/a@best", ("gs://b/a", "best")),
        ("me@home/a", ("me@home/a", None)),
    ],
)
def test_a_guide_is_named_as_run_or_run_at_step(named, opened, labelled, monkeypatch):
    asked = []

    def load(folder, *, checkpoint=None, local, report):
        asked.append((folder, checkpoint))
        return labelled

    monkeypatch.setattr(command, "load", load)
    assert command.with_guides(labelled, None, None, local=True) is labelled
    assert command.with_guides(labelled, named, None, local=True).guides.weaker is labelled
    assert asked == [opened]
