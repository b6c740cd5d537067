"""`jw.fit` and `jw.sample`: without a folder, a config or a mesh, from populations and from arrays."""

import dataclasses

import numpy as np
import pytest

from jaxweights.api.generators import fit, sample
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation
from jaxweights.population import Population, from_array

ROWS = np.random.default_rng(0).normal(size=(24, 11)).astype(np.float32)
TINY = {
    "autoencoder_channels": (4, 4),
    "denoiser_channels": (4, 8),
    "latent_dim": 8,
    "num_timesteps": 10,
    "batch_size": 8,
    "autoencoder_steps": 4,
    "diffusion_steps": 4,
}


def test_a_baseline_is_fitted_to_an_array():
    model = fit("gaussian", ROWS)
    drawn = sample(model, 500, seed=1)
    assert isinstance(drawn, Population) and drawn.weights.shape == (500, 11)
    np.testing.assert_allclose(drawn.weights.mean(0), ROWS.mean(0), atol=5 * ROWS.std() / np.sqrt(500))
    assert np.isnan(drawn.records["accuracy"]).all()
    assert repr(model) == "Model(gaussian, trained on 24 networks of 11 parameters)"


def test_a_learned_generator_is_trained_and_resumed(tmp_path):
    model = fit("pdiff", ROWS, seed=3, path=tmp_path, **TINY)
    again = fit("pdiff", ROWS, seed=3, path=tmp_path, **TINY)
    memory = fit("pdiff", ROWS, seed=3, **TINY)
    one, two, three = (sample(m, 5, seed=1).weights for m in (model, again, memory))
    assert np.array_equal(one, two) and np.array_equal(one, three)
    assert not np.array_equal(one, sample(model, 5, seed=2).weights)
    assert not np.array_equal(one, sample(model, 5, seed=1, sampler="ddim").weights)
    with pytest.raises(UserError, match="seed: 3 -> 4"):
        fit("pdiff", ROWS, seed=4, path=tmp_path, **TINY)
    with pytest.raises(UserError, match="weights: "):
        fit("pdiff", 2 * ROWS, seed=3, path=tmp_path, **TINY)


def test_samples_are_evaluated_where_the_population_knows_how():
    def evaluator(weights):
        value = np.asarray(weights)[:, 0].astype(np.float64)
        return Evaluation(value, -value, np.zeros((len(value), 1), np.uint8))

    training = dataclasses.replace(from_array(ROWS), evaluator=evaluator)
    drawn = sample(fit("copy", training), 6)
    assert np.array_equal(drawn.records["accuracy"], drawn.weights[:, 0].astype(np.float64))
    assert np.array_equal(drawn.weights, ROWS[drawn.records["parent"]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: fit("pdif", ROWS), "did you mean pdiff"),
        (lambda: fit("pdiff", ROWS, latent_dmi=3), "did you mean latent_dim"),
        (lambda: fit("pdiff", ROWS[0]), r"shape \(11,\)"),
        (lambda: fit("pdiff", ROWS * np.nan), "NaN or infinite"),
        (lambda: fit(3, ROWS), "give a name"),
        (lambda: fit("average", ROWS, k=100), "at least 100 training networks"),
        (lambda: sample(fit("gaussian", ROWS), 0), "at least 1"),
        (lambda: sample(fit("gaussian", ROWS), 3, sampler="ddim"), "no setting"),
    ],
)
def test_mistakes_are_sentences(call, message):
    with pytest.raises(UserError, match=message):
        call()
