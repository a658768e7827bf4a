import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.config import Choice, override
from ddpm_jax.diffusion import GUIDANCE, make_sampler, plan_chain, predict, sample
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.experiment import build
from ddpm_jax.files import storage_path
from ddpm_jax.reports.trajectories import predicted_x_0
from ddpm_jax.runtime.mesh import make_mesh
from ddpm_jax.sampling.chain import SampleProgram
from ddpm_jax.sampling.denoiser import make_denoiser
from ddpm_jax.sampling.run import Run
from ddpm_jax.typing import Conditioning, Operator, Prediction, RecallingDenoiser
from tests.tiny import TINY, UNET


def test_guidance_leads_away_from_the_unlabelled_prediction(trained):
    experiment, params = trained
    labels = jnp.arange(4)
    x_t = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    t = jnp.asarray(10)

    def eps(labels, weight):
        options = dataclasses.replace(TINY.sample, guidance=weight, clipping="none")
        return make_denoiser(experiment, params, Conditioning(labels), options)(x_t, t).eps

    with_label, without = eps(labels, 0.0), eps(jnp.full(4, 10), 0.0)
    assert np.abs(with_label - without).max() > 1e-4
    np.testing.assert_allclose(
        eps(labels, 2.0), with_label + 2.0 * (with_label - without), atol=1e-4
    )


def test_clipping_keeps_x_0_within_the_scale(trained):
    experiment, params = trained
    x_t = 5 * jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    for clip, reached in (("clip", 1.0), ("none", np.inf)):
        options = dataclasses.replace(TINY.sample, clipping=clip)
        x_0 = make_denoiser(experiment, params, Conditioning(jnp.arange(4)), options)(
            x_t, jnp.asarray(3)
        ).x_0
        assert (np.abs(x_0).max() <= 1) == (reached == 1.0)


def test_the_transforms_come_in_their_order(trained):
    """Guidance leaves the range that clipping then keeps, and eps agrees with what is left."""
    experiment, params = trained
    x_t, t = 5 * jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.asarray(3)
    options = dataclasses.replace(TINY.sample, guidance=5.0, clipping="clip")
    found = make_denoiser(experiment, params, Conditioning(jnp.arange(4)), options)(x_t, t)
    assert np.abs(found.x_0).max() <= 1
    schedule = experiment.schedule
    agreeing = schedule.sqrt_alpha_bar[3] * found.x_0
    agreeing += schedule.sqrt_one_minus_alpha_bar[3] * found.eps
    np.testing.assert_allclose(agreeing, x_t, atol=1e-4)


def test_the_operators_of_editing_come_last_the_first_of_them_innermost(trained):
    experiment, params = trained
    x_t, t = 5 * jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.asarray(3)

    def moved(denoiser, data):
        def changed(x_t, t):
            found = denoiser(x_t, t)
            return found._replace(x_0=data[0] * found.x_0 + data[1])

        return changed

    options = dataclasses.replace(TINY.sample, clipping="clip")
    plain, edited = (
        make_denoiser(experiment, params, Conditioning(jnp.arange(4)), options, operators=given)(
            x_t, t
        ).x_0
        for given in ((), (Operator(moved, (3, 0)), Operator(moved, (1, 1))))
    )
    np.testing.assert_allclose(edited, 3 * plain + 1, atol=1e-5)
    assert np.abs(edited).max() > 2


def test_the_options_of_clipping_and_guidance_reach_them(trained, monkeypatch):
    experiment, params = trained

    def constant(schedule, *, factor: float = 1.0):
        return lambda strong, weak, weight: lambda x_t, t: Prediction(factor + 0 * x_t, x_t)

    monkeypatch.setitem(GUIDANCE, "constant", constant)
    options = dataclasses.replace(
        TINY.sample,
        guidance=1.0,
        clipping=Choice("clip", low=-3.0, high=5.0),
    )
    x_t = jnp.zeros((4, 8, 8, 1))
    for factor, expected in ((7.0, 5.0), (4.0, 4.0), (-7.0, -3.0)):
        chosen = dataclasses.replace(options, guidance_method=Choice("constant", factor=factor))
        denoiser = make_denoiser(experiment, params, Conditioning(jnp.arange(4)), chosen)
        np.testing.assert_array_equal(denoiser(x_t, jnp.asarray(3)).x_0, expected)


def test_a_network_with_a_variance_reaches_the_prediction(trained):
    """A network of 2C outputs: here the trained one, whose output is joined by a v̂ of 0."""
    experiment, params = trained
    options = dataclasses.replace(TINY.sample, guidance=2.0)

    class Twice(type(experiment)):
        def apply(self, *args, **options):
            output = super().apply(*args, **options)
            return jnp.concatenate([output, jnp.zeros_like(output)], axis=-1)

    fields = {item.name: getattr(experiment, item.name) for item in dataclasses.fields(experiment)}
    x_t, t = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.asarray(10)
    plain, twice = (
        make_denoiser(each, params, Conditioning(jnp.arange(4)), options)(x_t, t)
        for each in (experiment, Twice(**fields))
    )
    assert plain.variance_fraction is None
    np.testing.assert_array_equal(twice.variance_fraction, 0.5)
    np.testing.assert_allclose(twice.x_0, plain.x_0, atol=1e-6)


@pytest.mark.parametrize("method", ["classifier_free", "adaptive_projected --momentum -0.5"])
def test_a_chain_shows_the_network_what_all_transforms_made_of_its_last_x_0(method):
    """Of DDIM with guidance, clipping and an operator, against the same steps by hand."""
    settings = {
        "diffusion.condition": "self_conditioning",
        "sample.sampler": "ddim",
        "sample.steps": 4,
        "sample.guidance": 2.0,
        "sample.guidance_method": method,
    }
    config = override(UNET, settings)
    experiment, plain = (
        build(config),
        build(override(UNET, {"diffusion.condition": "nothing"})),
    )
    params = experiment.init_params(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)
    labels = jnp.array([1, 2])
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))

    def halved(denoiser, data):
        def half(x_t, t):
            found = denoiser(x_t, t)
            return found._replace(x_0=0.5 * found.x_0)

        return half

    options = config.sample.settled(experiment.schedule.T)
    operators = (Operator(halved, ()),)
    denoiser = make_denoiser(experiment, params, Conditioning(labels), options, operators=operators)
    assert isinstance(denoiser, RecallingDenoiser)
    sampler = make_sampler("ddim", experiment.schedule)
    times = np.array([20, 15, 10, 5, 0])
    rows = plan_chain(sampler, experiment.schedule, times)
    keys = jax.random.split(jax.random.key(2), 2)
    found, _ = sample(sampler, denoiser, x, rows=rows, keys=keys)

    # By hand: the same transforms around a network that is given the picture as data.
    shown, state = jnp.zeros_like(x), None
    told = dataclasses.replace(experiment, conditioner=plain.conditioner)
    tables = experiment.schedule
    for t, s in itertools.pairwise(times):
        conditioning = Conditioning(labels, image=shown)
        inner = make_denoiser(told, params, conditioning, options, operators=operators)
        if isinstance(inner, RecallingDenoiser):
            inner = inner.given(inner.init(x) if state is None else state)
        seen = inner(x, jnp.asarray(t))
        shown, state = jnp.clip(seen.x_0, -1, 1), seen.memory
        data, noise = tables.sqrt_alpha_bar[s], tables.sqrt_one_minus_alpha_bar[s]
        x = jnp.asarray(data * seen.x_0 + noise * seen.eps)
    assert np.abs(shown).max() > 0.01
    np.testing.assert_allclose(found, x, atol=1e-4)


def test_what_a_network_that_sees_its_own_prediction_refuses():
    experiment = build(override(UNET, {"diffusion.condition": "self_conditioning"}))
    program = SampleProgram(experiment, make_mesh(1, jax.devices()[:1]), UNET.sample)
    with pytest.raises(UserError, match="leave it out: this network sees its own last x̂_0"):
        program(None, 2, seed=0, conditioning=Conditioning(image=jnp.zeros((2, 8, 8, 1))))


def test_a_run_that_sees_its_own_prediction_draws_on_any_devices_and_has_no_likelihood():
    config = override(UNET, {"diffusion.condition": "self_conditioning", "sample.steps": 3})
    experiment = build(config)
    params = experiment.init_params(jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + 0.05, params)

    def run(devices):
        mesh = make_mesh(devices=jax.devices()[:devices])
        return Run(storage_path("runs/own"), 4, experiment, params, name="ema", mesh=mesh)

    one, two = (run(devices).sample(4).samples for devices in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)
    # At the start of a chain it sees zeros.
    x_t, times = np.asarray(one)[None], np.array([7])
    x = jnp.asarray(one)
    labels, blank = jnp.arange(4), Conditioning(image=jnp.zeros_like(x))
    found = predicted_x_0(run(1), x_t, times, labels, experiment.beside(x, jax.random.key(0)))
    seen = experiment.condition(labels, beside=blank)
    output = experiment.apply(params, x, jnp.asarray(7), seen, train=False)
    schedule = experiment.schedule
    want = predict(experiment.parameterization, schedule, output, x_t=x, t=jnp.asarray(7))
    np.testing.assert_allclose(found[0], np.clip(want.x_0, -1, 1), atol=1e-4)
    with pytest.raises(UserError, match=r"has none for diffusion\.condition self"):
        evaluate(run(1), ["bits_per_dim"])
