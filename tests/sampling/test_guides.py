"""Runs that guide another one: weaker ones, and classifiers."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.cli import opening
from ddpm_jax.config import Choice, Config, DiffusionConfig, MlpConfig, PointsData, SampleConfig
from ddpm_jax.diffusion.losses import class_log_probabilities
from ddpm_jax.errors import UserError
from ddpm_jax.experiment import build
from ddpm_jax.files import storage_path
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.denoiser import make_denoiser
from ddpm_jax.sampling.guides import Guides
from ddpm_jax.sampling.run import Run
from ddpm_jax.sampling.shards import sample_shards
from ddpm_jax.typing import Conditioning
from tests.tiny import UNET, changed

# Small and without pictures, so that its programs compile fast.
PLAIN = Config(
    data=PointsData(),
    model=MlpConfig(width=8, layers=1, num_classes=10),
    diffusion=DiffusionConfig(schedule="cosine", timesteps=20),
    sample=SampleConfig(sampler="ddim", clipping="none", steps=5, batch_size=16),
)
DROPPED = changed(PLAIN, train={"label_dropout": 0.1})
UNLABELLED = changed(PLAIN, model={"num_classes": 0})
CLASSIFIER = changed(PLAIN, diffusion={"objective": "classification"})
X_T = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), np.float32)
T = jnp.asarray(12)
LABELS = jnp.array([3, 1, 4, 1])


def run_of(config, seed=0, names=(), step=6, devices=1):
    """A run whose parameters are random, and so whose outputs are not zero."""
    experiment = dataclasses.replace(build(config), class_names=tuple(names))
    leaves, tree = jax.tree.flatten(experiment.param_shapes)
    random = np.random.default_rng(seed)
    params = [0.2 * random.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    mesh = make_mesh(devices=jax.devices()[:devices])
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
    with pytest.raises(UserError, match='a classifier leads to a class; "no class" is none'):
        guided.sample(1, labels=["no class"])
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


def test_momentum_lasts_from_program_to_program_on_any_number_of_devices():
    """A chain of five steps calls its program five times."""
    asked: dict[str, Any] = {"guidance": 2.0, "guidance_method": "adaptive_projected"}
    moving: dict[str, Any] = asked | {"guidance_method.momentum": -0.5}
    one, eight = (run_of(DROPPED, devices=devices) for devices in (1, 8))
    still, found = (one.sample(8, seed=3, **settings).samples for settings in (asked, moving))
    assert np.abs(found - still).max() > 1e-2
    np.testing.assert_allclose(eight.sample(8, seed=3, **moving).samples, found, rtol=1e-4)


def test_an_interval_counts_the_calls_where_guidance_acts():
    run = run_of(DROPPED)
    schedule = run.experiment.schedule
    # The chain's times are 20, 16, 12, 8 and 4.
    interval = (schedule.log_snr[16] - 0.01, schedule.log_snr[12] + 0.01)
    mesh, options = run.mesh, dataclasses.replace(DROPPED.sample, guidance=1.0)
    assert SampleProgram(run.experiment, mesh, options).calls == 5 + 5
    some = dataclasses.replace(options, guidance_interval=interval)
    assert SampleProgram(run.experiment, mesh, some).calls == 5 + 2
    plain, whole, part, none = (
        run.sample(4, guidance=1.0, guidance_interval=each).samples
        for each in (None, (-1e3, 1e3), interval, (50.0, 60.0))
    )
    # An untrained network's samples reach a thousand.
    np.testing.assert_allclose(whole, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(none, run.sample(4).samples, rtol=1e-5, atol=1e-5)
    assert min(np.abs(part - each).max() for each in (plain, none)) > 1e-3


OTHER_T = changed(PLAIN, diffusion={"timesteps": 21})
SEVEN = changed(PLAIN, model={"num_classes": 7})
RECALLING = changed(UNET, diffusion={"condition": "self_conditioning"})


@pytest.mark.parametrize(
    ("own", "guide", "classifier", "message"),
    [
        (PLAIN, OTHER_T, None, "guide: its noise schedule, of T = 21, is not that of this run, of"),
        (PLAIN, UNET, None, "guide: its examples are 8×8×1, and those of this run are 2"),
        (
            UNET,
            RECALLING,
            None,
            "guide: its diffusion.condition is self_conditioning, and that of",
        ),
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
        (labelled, {"negative_label": 3}, "negative_label is given, and sample.guidance is 0"),
        (labelled, {"guidance_interval": (0, 1)}, "guidance_interval is given, and sample.guid"),
        (
            labelled,
            {"guidance_method": "adaptive_projected"},
            "guidance_method is given, and sample.guid",
        ),
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

    def load(folder, *, checkpoint=None, local, report, **more):
        asked.append((folder, checkpoint))
        return labelled

    monkeypatch.setattr(opening, "load", load)
    assert opening.open_run("a", opening.Opening()) is labelled
    guided = opening.open_run("a", opening.Opening(guide=named))
    assert guided.guides.weaker is labelled
    assert asked == [("a", None), ("a", None), opened]


@pytest.mark.parametrize("guides", ["weaker", "classifier"])
def test_a_guide_with_a_table_of_times_is_asked_at_whole_times_alone(guides):
    between = changed(UNET, model={"num_classes": 0}, train={"label_dropout": 0.0})
    points = dataclasses.replace(MlpConfig(width=8, layers=1), num_classes=10)
    guide = dataclasses.replace(between, model=points)
    if guides == "classifier":
        guide = changed(guide, diffusion={"objective": "classification"})
    else:
        guide = changed(guide, model={"num_classes": 0})
    base, other = build(between), build(guide)
    assert base.model.fractional_times
    few = {"sampler": Choice("dpmpp"), "grid": Choice("logsnr"), "steps": 5}
    options = dataclasses.replace(between.sample, **few)
    mesh = make_mesh(devices=jax.devices()[:1])
    alone = SampleProgram(base, mesh, options)
    asked = dataclasses.replace(options, guidance=float(guides == "weaker"))
    guided = SampleProgram(base, mesh, asked, guides=Guides(**{guides: other}))
    assert (alone.times % 1 != 0).any()
    assert (guided.times % 1 == 0).all()
