"""Grad-CAM: closed forms where a linear layer follows the mean of the map, differences of the score elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import nets
from jaxweights.bias import gradcam, picture
from jaxweights.bias.classifiers.cnn import SmallCNN, StridedConv
from jaxweights.nn.parameters import initialise

X = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
CLASSES = np.array([1, 0])


def test_a_linear_layer_behind_the_mean_gives_its_own_weights():
    """The small network: weights of the class times the map, over the number of positions."""
    module = SmallCNN((4,), 2)
    params = initialise(module, jax.random.key(0), X)["params"]
    seen = jax.nn.relu(StridedConv(4).apply({"params": params["conv1"]}, X))
    weights = np.asarray(params["fc"]["weight"])[CLASSES]
    expected = np.einsum("bhwk,bk->bhw", seen, weights) / 16
    np.testing.assert_allclose(gradcam.weighted(module, params, X, CLASSES), expected, rtol=1e-5, atol=1e-6)
    maps = np.asarray(gradcam.maps(module, params, X, CLASSES))
    assert maps.shape == (2, 8, 8) and maps.min() >= 0
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1)


def test_scores_differ_by_what_the_weights_say():
    """ConvNeXt, which normalises the mean: a weight is the slope of the score along its channel."""
    settings = {"name": "convnext_tiny", "widths": (6,), "depths": (1,)}
    net = nets.build(settings, (8, 8, 3), 2)
    params = net.spec.unflatten(net.init(jax.random.key(1)))
    step = 1e-2

    @jax.jit
    def computed(shifts):
        def score(shift):
            return gradcam.shifted(net.module, params, X, shift)[0][np.arange(2), CLASSES]

        above, below = jnp.split(jax.vmap(score)(jnp.concatenate([shifts, -shifts])), 2)
        slopes = (above - below) / (2 * step * 4)  # of a mean over four positions
        return slopes, gradcam.shifted(net.module, params, X, 0.0)[1], gradcam.weighted(net.module, params, X, CLASSES)

    slopes, seen, found = computed(step * jnp.eye(6).reshape(6, 1, 1, 1, 6))
    np.testing.assert_allclose(found, np.einsum("bhwk,kb->bhw", seen, slopes), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("net", [{"name": "resnet18", "widths": (4,), "depths": (1,)}, {"name": "mlp", "hidden": (3,)}])
def test_networks_have_a_map_or_none(net):
    built = nets.build(net, (8, 8, 3), 2)
    params = built.spec.unflatten(jnp.zeros(built.spec.num_params))
    last = gradcam.last_map(built.module, params, X)
    assert last is None if net["name"] == "mlp" else last.shape == (2, 2, 2, 4)
    assert last is not None or gradcam.maps(built.module, params, X, CLASSES) is None


def test_the_picture_has_right_and_wrong_images():
    """A collection with three right and one wrong image, and one without any wrong one."""
    images, maps = np.zeros((5, 4, 4, 1), np.uint8), np.zeros((5, 4, 4), np.float32)
    seen = {"images": images, "maps": maps, "truth": np.array([0, 0, 0, 0, 1]), "predicted": np.array([0, 0, 0, 1, 1])}
    figure = picture._attention(seen, ["dark", "bright"])
    assert len(figure.axes) == 4 * 4 and sum(len(axes.images) for axes in figure.axes) == 3 * 5
    assert [axes.get_title() for axes in figure.axes[:4]] == ["right", "right", "right", "taken for\nbright"]
