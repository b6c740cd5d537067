"""SANE: tokens, standardisation, windows, autoencoder and training against the published code, samplers, choices by
training images."""

from __future__ import annotations

import dataclasses
import json

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sources
from goldens import agree
from jax.sharding import PartitionSpec
from sklearn.neighbors import KernelDensity

import jaxweights as jw
from configs.paper import sane as paper
from jaxweights import generators, nets, parallel, tasks
from jaxweights.data import Dataset
from jaxweights.errors import UserError
from jaxweights.experiment import plan
from jaxweights.generators import behaviour
from jaxweights.generators.sane import Sane, importer, latents, loss, windows
from jaxweights.generators.sane.network import Architecture, Autoencoder
from jaxweights.generators.sane.standardisation import Standardisation
from jaxweights.generators.sane.tokens import TokenSequence, tokens_of, vectors_of
from jaxweights.generators.sane.views import ViewSettings, permuted, two_views
from jaxweights.nn import normalization
from jaxweights.nn.contrast import nt_xent
from jaxweights.population import Population, TaskExamples
from jaxweights.spec import FIXED, Leaf, WeightSpec

CNN = {"name": "cnn", "channels": (16, 32, 15), "windows": (3, 3, 3), "pools": (True, True, True)}
SMALL_CNN = tasks.build({"name": "cnn"}, (28, 28, 1), 10)
MLP = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
ONES = r"(ln_\d|head\.[14])\.weight$"  # tensors that are drawn around 1
RNG = np.random.default_rng(0)


def leaf(name, shape):
    return Leaf(name, shape, shape, (FIXED,) * len(shape), (0,) * len(shape), tuple(range(len(shape))))


# The network of the golden tokens: a convolution without a bias, batch normalisation, and layers with biases.
SPEC = WeightSpec(
    (
        leaf("conv1/weight", (4, 2, 1, 6)),
        *(leaf(f"bn1/{name}", (4,)) for name in ("weight", "bias", "running_mean", "running_var")),
        leaf("conv2/weight", (2, 4, 1, 2)),
        leaf("conv2/bias", (2,)),
        leaf("fc/weight", (3, 4)),
        leaf("fc/bias", (3,)),
    )
)


@pytest.fixture(scope="module")
def golden():
    return goldens.load("sane")


@pytest.mark.parametrize("name, size, norms", [("5", 5, True), ("automatic", 0, True), ("without", 5, False)])
def test_tokens_are_the_published_ones(golden, name, size, norms):
    sequence = TokenSequence(SPEC, size, norms)
    numbered = np.arange(1, SPEC.num_params + 1, dtype=np.float32)
    found = np.where(sequence.mask, numbered[sequence.index], 0)
    np.testing.assert_array_equal(found, golden[f"tokens/{name}"])
    np.testing.assert_array_equal(sequence.mask, golden[f"token_mask/{name}"])
    np.testing.assert_array_equal(sequence.positions, golden[f"token_positions/{name}"])
    assert sequence.positions.dtype == np.int16 and sequence.num_tokens == len(found)
    # The published search passes over layers without a bias, of which one is longer.
    assert TokenSequence(SPEC, None).size == 12 and TokenSequence(SPEC, 0).size == 9


def test_shapes_of_published_networks():
    large = tasks.build(CNN, (32, 32, 3), 10)
    assert large.spec.num_params == 10_853 and SMALL_CNN.spec.num_params == 2_464
    for net, shape in ((SMALL_CNN, (48, 201)), (large, (93, 289))):
        sequence = TokenSequence(net.spec, 0)
        assert sequence.index.shape == shape and sequence == TokenSequence(net.spec, 0)
        assert TokenSequence(net.spec, None).size == shape[1]
    for classes, with_norms, without in ((10, 53_524, 39_124), (100, 53_704, 39_304)):
        spec = tasks.build({"name": "resnet18", "stem": "cifar"}, (32, 32, 3), classes).spec
        assert TokenSequence(spec, 288).num_tokens == with_norms
        assert TokenSequence(spec, 288, norms=False).num_tokens == without
        assert TokenSequence(spec, 0).size == 513


@pytest.mark.parametrize("spec", [SMALL_CNN.spec, SPEC], ids=["cnn", "norms"])
def test_vectors_come_back_from_tokens_bit_for_bit(spec):
    x = np.random.default_rng(2).normal(size=(2, spec.num_params)).astype(np.float32)
    for size, norms in ((7, True), (None, False)):
        sequence = TokenSequence(spec, size, norms)
        index, slots, others = sequence.index, sequence.slots, np.zeros(spec.num_params, np.float32)
        found = jax.jit(lambda x, *arrays: vectors_of(tokens_of(x, arrays[0]), *arrays[1:]))(x, index, slots, others)
        np.testing.assert_array_equal(found, np.where(sequence.slots >= 0, x, 0))
        assert (sequence.slots >= 0).all() == (norms or spec is not SPEC)


def test_permutations_of_units_move_single_numbers():
    spec = SMALL_CNN.spec
    orders = [np.random.default_rng(3).permutation(group.size) for group in spec.groups]
    symmetry = TokenSequence(spec, None).symmetry
    found = jax.jit(permuted)(np.arange(spec.num_params), np.concatenate(orders), symmetry)
    expected = jax.jit(spec.permutation_index)([jnp.asarray(order) for order in orders])
    np.testing.assert_array_equal(found, expected)


def test_standardisation_as_published_and_of_all_numbers(golden):
    rows, sequence = golden["rows"], TokenSequence(SPEC, None)
    found = Standardisation.of(sequence, rows, "published")
    np.testing.assert_allclose(found.apply(rows), golden["standardised"], atol=1e-5)  # values up to 6
    np.testing.assert_allclose(found.undo(found.apply(rows)), rows, atol=1e-5)
    pooled = Standardisation.of(sequence, rows, "pooled").apply(rows)
    for layer in sequence.layers:
        numbers = pooled[:, layer.rows.reshape(-1)]
        np.testing.assert_allclose([numbers.mean(), numbers.std()], [0, 1], atol=1e-5)
    # Statistics of a split are its own: those of half of the networks differ.
    assert np.abs(Standardisation.of(sequence, rows[:2], "published").mean - found.mean).max() > 0.1


def test_windows_are_the_published_ones_where_those_exist(golden):
    for given in ((10, 4, 1), (320, 128, 64), (12, 4, 2)):
        np.testing.assert_array_equal(windows.with_halo(*given).starts, golden["halo/" + "_".join(map(str, given))])
    cases = [(t, content, halo) for t in range(1, 40) for content in range(1, 9) for halo in range(9)]
    passes = np.unpackbits(golden["halo_passes"])[: len(cases)].astype(bool)
    np.testing.assert_array_equal([windows.misfit(*case) is None for case in cases], passes)
    assert not any(windows.misfit(*case) is None for case in ((300, 128, 64), (200, 128, 64), (130, 64, 10)))
    for case in cases:  # any other length is cut, too
        made = windows.with_halo(*case)
        tokens = (made.starts[:, None] + np.arange(made.length)).reshape(-1)
        np.testing.assert_array_equal(tokens[made.places], np.arange(case[0]))
        assert tokens.max() < case[0]


def test_autoencoder_and_training_agree_with_the_published_ones(golden):
    shapes = json.loads(str(golden["shapes"]))
    drawn = goldens.draw({**shapes, "x_i": (3, 4, 5), "x_j": (3, 4, 5)}, 0, ONES)
    mask, positions = golden["mask"], golden["positions"]
    x = np.stack([drawn.pop("x_i"), drawn.pop("x_j")]) * mask
    architecture = Architecture(5, 8, 2, 2, 3, (9, 4, 6), "float32", False)
    params = importer.from_torch(drawn, architecture, 4)
    module, steps = Autoencoder(architecture), len(golden["losses"])
    optimizer = loss.optimizer(steps, 0.01, 0.1)

    def total(params):
        flat = x.reshape(-1, *x.shape[2:])
        _, y, embedded = module.apply({"params": params}, flat, np.concatenate([positions] * 2))
        error = loss.reconstruction(y.reshape(x.shape), x, mask, "counts")
        contrast = nt_xent(*jnp.split(embedded, 2), 0.1)
        return 0.05 * contrast + 0.95 * error, (contrast, error)

    def step(carry, _):
        params, state = carry
        (value, parts), gradient = jax.value_and_grad(total, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), (jnp.stack([value, *parts]), gradient)

    @jax.jit
    def run(params):
        (after, _), (losses, gradients) = jax.lax.scan(step, (params, optimizer.init(params)), None, steps)
        return module.apply({"params": params}, x[0], positions), losses, gradients, after

    outputs, losses, gradients, after = run(params)
    agree(list(outputs), [golden[name] for name in ("z", "y", "zp")])
    agree(losses, golden["losses"].astype(np.float32), relative=1e-4)  # of eight steps
    first = jax.tree.map(lambda g: g[0], gradients)
    for name, value in {
        "tokenizer.weight": first["embedding"]["kernel"].T,
        "pe.pe1.weight": first["positions"]["sequence"],
        "projection_head.head.0.weight": first["projection"]["dense_0"]["kernel"].T,
        "transformer_decoder.transformer.1.mlp.c_proj.weight": first["decoder"]["down_kernel"][1].T,
    }.items():
        agree(value, golden[f"gradient/{name}"], relative=1e-4)  # sums that cancel
    # AdamW divides gradients by their size, also those that are rounding.
    agree(after["encoder"]["qkv_kernel"][0].T, golden["after"], relative=1e-3)
    agree(after["unembedding"]["bias"], golden["after_bias"], relative=1e-3)
    rates = [0.01 * loss.one_cycle(s, steps, 1 / 25, 1.0, 1 / 25e4) for s in range(steps)]
    np.testing.assert_allclose(rates, golden["rates"], rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(
        [loss.one_cycle(s, steps, 0.95, 0.85, 0.95) for s in range(steps)], golden["betas"], rtol=1e-5
    )


def test_views_are_windows_of_permuted_networks():
    """The second view holds the same numbers under another order of units; targets are clean, or what is seen."""
    sequence = TokenSequence(MLP.spec, None)
    x, keys = (
        jnp.asarray(np.random.default_rng(4).normal(size=(64, 23)).astype(np.float32)),
        jax.random.split(jax.random.key(0), 64),
    )
    constants = sequence.index, sequence.positions, sequence.symmetry, (3,)
    corrected, published = (
        ViewSettings(3, "permuted", "sample", 0.1, "clean"),
        ViewSettings(3, "canonical", "batch", 0.1, "noised"),
    )
    seen, old = jax.jit(lambda x: [two_views(x, keys, *constants, made) for made in (corrected, published)])(x)
    starts = np.asarray(seen.positions)[:, 0, 0]
    assert set(starts) == {0, 1, 2} and len(set(np.asarray(old.positions)[:, 0, 0])) == 1
    every = tokens_of(x, sequence.index)
    for i, start in enumerate(starts):
        np.testing.assert_array_equal(seen.targets[0, i], every[i, start : start + 3])
    hidden = np.flatnonzero(starts == 0)  # windows of the three hidden units alone
    np.testing.assert_array_equal(np.sort(seen.targets[0, hidden], axis=1), np.sort(seen.targets[1, hidden], axis=1))
    moved = (np.asarray(seen.targets[0, hidden]) != np.asarray(seen.targets[1, hidden])).any(axis=(1, 2))
    assert 0.5 < moved.mean() < 1  # five orders in six
    np.testing.assert_array_equal(old.inputs, old.targets)
    factor = (np.asarray(seen.inputs) / np.where(seen.mask, seen.targets, np.nan)) - 1
    assert np.nanstd(factor) == pytest.approx(0.1, rel=0.1) and not np.asarray(seen.inputs)[:, ~seen.mask].any()


INPUTS = RNG.normal(size=(24, 2, 2, 1)).astype(np.float32)
LABELS = (INPUTS[:, 0, 0, 0] > 0).astype(np.int32)
NOWHERE = np.full_like(INPUTS, np.nan)  # test images, which nothing may look at
EXAMPLES = TaskExamples(
    MLP, Dataset("", INPUTS, LABELS, NOWHERE, LABELS, 2, np.ones(1, np.float32), np.zeros(1, np.float32), "")
)
NETWORKS = dataclasses.replace(
    Population.create(RNG.normal(size=(12, 23)).astype(np.float32), MLP.spec, run=np.arange(12), step=0),
    examples=EXAMPLES,
)


@pytest.fixture(scope="module")
def untrained():
    """A generator with random parameters that reconstruct nothing, and its state."""
    rng = np.random.default_rng(1)
    generator = Sane(**{**Sane.TINY, "bandwidth": 1.0})
    data, constants = generator.prepare(NETWORKS)
    shapes, _ = jax.eval_shape(generator.stages()[0].init, jax.random.key(0), {"constants": constants})
    params = jax.tree.map(lambda x: (0.5 * rng.normal(size=x.shape)).astype(np.float32), shapes)
    state = {"constants": constants, "autoencoder": {"params": params, "model_state": {}}}
    return generator, data, state | generator.finish(state, data)


def test_losses_do_not_depend_on_the_number_of_devices(untrained, eight_devices):
    """Nor does the window that a whole batch shares."""
    generator, data, state = untrained
    keys, mesh = jax.random.split(jax.random.key(1), 8), parallel.make_mesh(2)
    shared = ViewSettings(3, "canonical", "batch", 0.1, "noised")
    constants = (state["constants"][name] for name in ("index", "positions", "symmetry"))
    index, positions, symmetry = constants

    def found(rows, keys, axis_name=None):
        value, _ = generator._loss(state["autoencoder"]["params"], {}, state, rows, keys, axis_name)
        window = two_views(rows, keys, index, positions, symmetry, (3,), shared, axis_name).positions
        return value if axis_name is None else jax.lax.pmean(value, axis_name), window

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    several = jax.shard_map(
        lambda *rows: found(*rows, parallel.AXIS), mesh=mesh, in_specs=(split, split), out_specs=(whole, split)
    )
    many, one = jax.jit(several)(data[:8], keys), jax.jit(found)(data[:8], keys)
    np.testing.assert_allclose(many[0], one[0], rtol=1e-5)
    np.testing.assert_array_equal(many[1], one[1])


def test_samples_are_chosen_by_training_images(untrained):
    generator, _, state = untrained
    keys = jax.random.split(jax.random.key(0), 6)
    accuracy = jax.jit(lambda z: behaviour.total_accuracy(state["constants"], generator.decode(state, z)))
    sub = generator.replace(candidates=4)
    prompts = state["prompts"].rows.reshape(12, 5, 3)
    drawn = latents.draw(prompts, sub._candidate_keys(keys, 0), "token", "independent", 1.0).latents.reshape(24, -1)
    every = np.asarray(accuracy(jnp.asarray(drawn)))
    chosen = sub.inputs(state, keys, NETWORKS)["latents"]
    np.testing.assert_array_equal(chosen, drawn[np.argsort(-every, kind="stable")[:6]])
    boot = sub.replace(rounds=3)
    last = boot.inputs(state, keys, NETWORKS)["latents"]
    found = np.asarray(accuracy(jnp.asarray(np.concatenate([last] * 4))))[:6]
    assert found.mean() > every.mean()
    first = boot.replace(keep="first", density="joint").inputs(state, keys, NETWORKS)
    assert first["latents"].shape == (6, 15) and set(first["parents"]) <= set(range(12))
    normal = generator.replace(prompts="normal", bandwidth=0.0).inputs(state, keys, NETWORKS)
    assert np.std(normal["latents"]) == pytest.approx(10, rel=0.3) and (normal["parents"] == -1).all()
    kept = generator.replace(top=0.25, density="joint").inputs(state, keys, NETWORKS)["parents"]
    assert len(set(kept)) <= 4
    blind = Sane(**Sane.TINY, candidates=2)
    with pytest.raises(UserError, match=r"generators\.sane looks at .* set candidates and rounds to 1"):
        blind.prepare(dataclasses.replace(NETWORKS, examples=None))


def test_long_sequences_go_through_windows(untrained):
    """With context for everything, windows give what the whole sequence gives; without, they cannot."""
    generator, _, state = untrained
    weights = jnp.asarray(NETWORKS.weights[:2])
    full, narrow = generator.replace(halo_window=2, halo=4), generator.replace(halo_window=2, halo=1)
    whole, wide, other = jax.jit(lambda w: [g.encode(state, w) for g in (generator, full, narrow)])(weights)
    np.testing.assert_allclose(whole, wide, atol=1e-5)
    assert whole.shape == other.shape and np.abs(whole - other).max() > 0.01
    with pytest.raises(UserError, match=r"halo_lengths.*5 tokens are fewer than a window of 4 with 3"):
        generator.replace(halo_window=4, halo=3, halo_lengths="published").prepare(NETWORKS)
    with pytest.raises(UserError, match=r"max_positions.*\(5, 2, 3\)"):
        generator.replace(max_positions=(5, 2, 2)).prepare(NETWORKS)
    leaves = jw.Leaves()
    leaves.norm("norm", 4, leaves.group(4), True)
    with pytest.raises(UserError, match=r"norms.*these networks have no other layers"):
        generator.replace(norms=False)._check_lengths(TokenSequence(leaves.spec(), None, False))


@pytest.mark.parametrize("density", ["token", "individual", "joint"])
def test_faithful_densities_are_the_published_loops(density):
    prompts = np.random.default_rng(5).normal(size=(9, 4, 3)).astype(np.float32)
    kde = KernelDensity(kernel="gaussian", bandwidth=0.2)
    columns = {
        "token": [prompts[:, i] for i in range(4)],
        "individual": list(prompts.reshape(9, -1, 1).swapaxes(0, 1)),
        "joint": [prompts.reshape(9, -1)],
    }[density]
    expected = np.concatenate([kde.fit(part).sample(7, random_state=42) for part in columns], axis=1)
    found = latents.draw(prompts, jax.random.split(jax.random.key(0), 7), density, "faithful", 0.2)
    np.testing.assert_allclose(found.latents.reshape(7, -1), expected, atol=1e-6)
    shift = found.latents - prompts[found.parents]  # all tokens have the same row, and but for "joint" the same noise
    assert (np.ptp(shift, axis=1).max() < 1e-6) == (density != "joint")


def test_independent_densities_mix_what_they_are_of():
    prompts = np.repeat(np.arange(50, dtype=np.float32), 12).reshape(50, 4, 3)
    keys = jax.random.split(jax.random.key(0), 200)
    for density, values in (("joint", 1), ("token", 4), ("individual", 12)):
        found = latents.draw(prompts, keys, density, "independent", 1e-3)
        rows = np.round(found.latents).astype(int)
        different = np.mean([len(set(row.reshape(-1))) for row in rows])
        assert different == pytest.approx(50 * (1 - (1 - 1 / 50) ** values), rel=0.1)
        np.testing.assert_array_equal(found.parents, rows[:, 0, 0] if density == "joint" else -1)
        assert np.std(found.latents - rows) == pytest.approx(1e-3, rel=0.1)


def test_images_move_running_statistics_as_published():
    spec = WeightSpec(tuple(leaf(name, (4,)) for name in ("weight", "bias", "running_mean", "running_var")))
    net = nets.TaskNet("norm", normalization.BatchNorm(), spec, (2, 2, 4), 4)
    rng = np.random.default_rng(6)
    images = rng.normal(2, 3, size=(10, 2, 2, 4)).astype(np.float32)
    vector = np.abs(rng.normal(size=(1, 16))).astype(np.float32)
    generator = Sane(**Sane.TINY, conditioning=3, conditioning_batch=5)
    constants = {behaviour.NET: generators.base.Known(net), "inputs": images}
    found = np.asarray(jax.jit(lambda v: generator._conditioned(constants, v))(vector))[0]
    expected = vector[0].copy()
    for batch in (images[:5], images[5:], images[:5]):
        flat = batch.reshape(-1, 4)
        expected[8:] = 0.9 * expected[8:] + 0.1 * np.concatenate([flat.mean(axis=0), flat.var(axis=0, ddof=1)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert generator.recalibration is None and generator.replace(statistics="train").recalibration is not None


def test_sizes_are_the_published_ones():
    config = paper.get_config("cnn")
    made, net = generators.build("sane", config.generators.sane), tasks.build(config.net, (32, 32, 3), 10)
    assert plan.num_params(made, net) == 202_539_421 and made.num_tokens(net.spec) == 93
    large = generators.build("sane", paper.get_config("resnet18").generators.sane)
    spec = tasks.build({"name": "resnet18", "stem": "cifar"}, (32, 32, 3), 100).spec
    sequence = TokenSequence(spec, large.token_size)
    inputs = jnp.zeros((1, large.window, 288)), jnp.zeros((1, large.window, 3), jnp.int32)
    module = Autoencoder(large.architecture(sequence))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    assert plan.count(shapes) == 865_050_012


def test_released_parameters_are_read(golden, tmp_path, monkeypatch):
    shapes = json.loads(str(golden["shapes"]))
    saved = goldens.draw(shapes, 0, ONES)
    folder = tmp_path / "checkpoint_000050"
    content = {"model": {f"_orig_mod.{name}": value for name, value in saved.items()}, "optimizer": {"step": 3}}
    sources.save_torch(folder / "state.pt", content, monkeypatch)
    monkeypatch.setattr(Sane, "finish", lambda self, state, data: {"prompts": data})
    with pytest.raises(UserError, match="how many heads"):
        jw.released("sane_published", folder, NETWORKS)
    sources.write_json(folder.parent / "params.json", {"ae:nhead": 2, "seed": 32})
    model = jw.released("sane_published", folder, NETWORKS)
    made = model.generator
    assert (made.width, made.blocks, made.heads, made.latent_dim, made.window) == (8, 2, 2, 3, 4)
    assert (made.max_positions, made.token_size, made.views) == ((9, 4, 6), 5, "canonical")
    agree(model.state["autoencoder"]["params"]["embedding"]["kernel"].T, saved["tokenizer.weight"], relative=0)
