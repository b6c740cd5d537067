"""Matching finds planted reorderings, is exact where one can know, and is no worse than git-re-basin's on the host."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxweights import parallel, tasks
from jaxweights.api.audit import audit
from jaxweights.auditing.alignment import assignment, canonical, climbing, matching, quotient, reordering
from jaxweights.errors import UserError
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED
from launch.benchmarks.audit import rebasin

ONE = parallel.make_mesh(1)


def dense(sizes, scaling="none"):
    leaves, reads = Leaves(), FIXED
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        writes = leaves.group(outputs, scaling) if i < len(sizes) - 2 else FIXED
        leaves.dense(f"fc{i}", inputs, outputs, reads, writes)
        reads = writes
    return leaves.spec()


def residual(fixed, stream, inner):
    """One block: the inner layer reads and writes the stream."""
    leaves = Leaves()
    s, h = leaves.group(stream), leaves.group(inner)
    leaves.dense("in", fixed, stream, writes=s)
    leaves.dense("a", stream, inner, s, h)
    leaves.dense("b", inner, stream, h, s)
    leaves.dense("out", stream, fixed, s)
    return leaves.spec()


def doubled(stream):
    """A layer reads the units that it writes, so that their order is in one tensor twice."""
    leaves = Leaves()
    s = leaves.group(stream, "sign")
    leaves.dense("in", 3, stream, writes=s)
    leaves.dense("a", stream, stream, s, s)
    leaves.dense("out", stream, 3, s)
    return leaves.spec()


def draw(spec, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, spec.num_params)).astype(np.float32)


def shuffles(spec, count, seed=1):
    """Random orders and signs `[count, U]`."""
    rng = np.random.default_rng(seed)
    orders = [rng.permuted(np.tile(np.arange(g.size), (count, 1)), axis=1) for g in spec.groups]
    signs = [rng.choice([-1, 1] if g.scaling == "sign" else [1], (count, g.size)) for g in spec.groups]
    return np.concatenate(orders, axis=1), np.concatenate(signs, axis=1).astype(np.int8)


@pytest.fixture(params=["few", "cores"])
def program(request, monkeypatch):
    """The program for few pairs, and that of the cores for all."""
    if request.param == "cores":
        pytest.importorskip("numba")
        monkeypatch.setattr(matching, "_FEW", 0)


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    "spec",
    [dense((20, 30, 30, 5)), residual(3, 3, 5), residual(2, 30, 50)],
    ids=["mlp", "residual_3_3_5", "residual_2_30_50"],
)
def test_planted_reorderings_are_found(spec):
    """All of them, of residual nets too, where a start from the identity misses many."""
    ours, (orders, signs) = draw(spec, 50), shuffles(spec, 50)
    found = matching.match(spec, ours, reordering.reordered(spec, ours, orders, signs), mesh=ONE)
    inverse = np.concatenate([np.argsort(x, axis=1) for x in canonical.by_group(spec, orders)], axis=1)
    np.testing.assert_array_equal(found.permutations, inverse)
    np.testing.assert_array_equal(found.squared, 0)


@pytest.mark.usefixtures("program")
def test_no_worse_than_rebasin_on_the_host():
    """Where the order is planted under noise, the same; on independent networks, whose optima are many, nearer on the
    whole, and hardly ever farther by a per cent."""
    spec, count = dense((20, 30, 30, 5)), 50
    ours, rng = draw(spec, count), np.random.default_rng(3)
    ones = np.ones((count, 60), np.int8)
    noised = reordering.reordered(spec, ours, *shuffles(spec, count)) + 0.5 * draw(spec, count, 4)
    for theirs, planted in ((noised, True), (draw(spec, count, 5), False)):
        found = matching.match(spec, ours, theirs, mesh=ONE)
        pairs = zip(ours.astype(np.float64), theirs.astype(np.float64), strict=True)
        host = np.stack([rebasin(spec, a, b, rng) for a, b in pairs])
        expected = reordering.squared_distances(spec, ours, theirs, host, ones)
        if planted:
            np.testing.assert_allclose(found.squared, expected, rtol=1e-12)
        else:
            assert found.squared.mean() <= expected.mean()
            assert (found.squared <= 1.01 * expected).mean() > 0.9
            assert (found.squared < np.square(ours - theirs).sum(axis=1)).all()


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("scaling", ["none", "sign"])
def test_one_layer_equals_brute_force(scaling):
    spec = dense((3, 5, 2), scaling)
    ours, theirs = draw(spec, 6), draw(spec, 6, 1)
    found = matching.match(spec, ours, theirs, mesh=ONE)
    signs = list(itertools.product((-1, 1), repeat=5)) if scaling == "sign" else [(1,) * 5]
    orders = np.array(list(itertools.permutations(range(5))))
    for i in range(6):
        rows = np.broadcast_to(theirs[i], (len(orders), spec.num_params))
        pairs = np.broadcast_to(ours[i], rows.shape)
        best = min(
            reordering.squared_distances(spec, pairs, rows, orders, np.tile(np.array(s, np.int8), (120, 1))).min()
            for s in signs
        )
        assert found.squared[i] == pytest.approx(best, rel=1e-12)


def test_distances_never_grow_from_sweep_to_sweep():
    spec = residual(3, 3, 5)
    ours, theirs = draw(spec, 64), draw(spec, 64, 1)
    start = {"starts": (matching.RANDOM,), "mesh": ONE}
    squared = [matching.match(spec, ours, theirs, sweeps=n, **start).squared for n in (1, 2, 3, 20)]
    assert (np.diff(squared, axis=0) <= 1e-9).all() and (squared[0] > squared[-1]).any()


def test_groups_without_a_common_tensor_are_updated_together():
    assert climbing.phases(dense((4, 5, 6, 7, 3))) == ((0, 2), (1,))
    assert climbing.phases(residual(3, 3, 5)) == ((0,), (1,))


NETWORKS = {
    "batch_norm": ({"name": "resnet18", "widths": (4, 6), "depths": (1, 1), "stem": "cifar"}, (8, 8, 1)),
    "flattened_maps": ({"name": "cnn_medium", "channels": (4, 6, 4)}, (32, 32, 1)),
    "signs": ({"name": "mlp", "hidden": (6, 5), "activation": "tanh"}, (3, 3, 1)),
    "attention": ({"name": "vit_tiny", "width": 8, "depth": 1, "heads": 2, "patch": 4}, (8, 8, 1)),
}


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("name", NETWORKS)
def test_copies_under_all_symmetries_are_found_at_zero(name):
    """Reordered, rescaled and sign-flipped networks among others: found, at no distance, and still the functions."""
    config, shape = NETWORKS[name]
    net = tasks.build(config, shape, 3)
    spec, rng = net.spec, np.random.default_rng(0)
    reference = rng.normal(size=(12, spec.num_params)).astype(np.float32)
    for leaf, span in spec.spans():
        if is_statistic(leaf.name):  # variances are positive
            reference[:, span] = np.abs(reference[:, span])
    positive = [np.full(g.size, g.scaling == "positive") for g in spec.groups]
    scales = np.exp(np.concatenate(positive) * rng.normal(size=(6, sum(g.size for g in spec.groups))))
    orders, signs = shuffles(spec, 6)
    rescaled = canonical.rescaled(spec, reference[:6], scales)
    queries = reordering.reordered(spec, rescaled, orders, signs).astype(np.float32)
    found = quotient.quotient_nearest(queries, reference, spec, 2, mesh=ONE, proposals=3)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(6))
    norms = np.linalg.norm(canonical.balance(spec, reference[:6]), axis=1)
    assert (found.distances[:, 0] <= canonical.COPY_TOLERANCE * norms).all() and (found.distances[:, 1] > 0.1).all()
    moved = quotient.brought_onto(spec, reference[found.indices], found.permutations, found.signs, queries)
    np.testing.assert_allclose(moved[:, 0], queries, rtol=1e-5, atol=1e-5)
    images = jnp.asarray(rng.normal(size=(4, *shape)), jnp.float32)
    outputs = jax.jit(jax.vmap(lambda v: net.module.apply({"params": spec.unflatten(v)}, images)))
    before, after = outputs(jnp.asarray(reference[:1])), outputs(jnp.asarray(queries[:1]))
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * float(jnp.abs(before).max()))


@pytest.mark.parametrize("name", ["doubled", "attention"])
def test_all_programs_find_the_same(name, monkeypatch):
    """The same orders and signs, of tensors with a group twice, and with a group between other axes."""
    spec = doubled(5) if name == "doubled" else tasks.build(*NETWORKS[name], 3).spec
    ours, theirs = draw(spec, 8), draw(spec, 8, 1)
    few, *others = _by_all(spec, ours, theirs, monkeypatch)
    for other in others:
        np.testing.assert_array_equal(few.permutations, other.permutations)
        np.testing.assert_array_equal(few.signs, other.signs)
        np.testing.assert_allclose(few.squared, other.squared, rtol=1e-12)
    assert few.squared.mean() < 0.95 * np.square(ours - theirs).sum(axis=1).mean()


def test_weights_too_large_for_scores_are_left_as_they_are(monkeypatch):
    """Products of them are infinite in float32: no program ends in a loop, and others are matched."""
    spec = dense((3, 4, 4, 2))
    ours, theirs = draw(spec, 4), draw(spec, 4, 1)
    ours[1] *= 1e30
    theirs[1] *= 1e30
    for found in _by_all(spec, ours, theirs, monkeypatch):
        np.testing.assert_array_equal(found.permutations[1], np.tile(np.arange(4), 2))
        assert (found.permutations[[0, 2, 3]] != found.permutations[1]).any(axis=1).all()


def _by_all(spec, ours, theirs, monkeypatch):
    """Matches by the program for few pairs, by that of the cores, where Numba is there, and by that of the devices."""
    pytest.importorskip("numba")
    few = matching.match(spec, ours, theirs, mesh=ONE)
    monkeypatch.setattr(matching, "_FEW", 0)
    cores = matching.match(spec, ours, theirs, mesh=ONE)
    monkeypatch.setattr(matching, "_on_cores", lambda mesh: False)
    return few, cores, matching.match(spec, ours, theirs, mesh=ONE)


def test_running_statistics_move_but_do_not_count():
    spec = tasks.build(*NETWORKS["batch_norm"], 3).spec
    a = draw(spec, 2)
    b = a.copy()
    for leaf, span in spec.spans():
        b[:, span] += is_statistic(leaf.name)
    orders, signs = shuffles(spec, 2)
    for row, order, moved in zip(a, orders, reordering.reordered(spec, a, orders, signs), strict=True):
        own = [jnp.asarray(x) for x in canonical.by_group(spec, order)]
        np.testing.assert_array_equal(moved, spec.permute(jnp.asarray(row), own))
    found = matching.match(spec, a, reordering.reordered(spec, b, orders, signs), mesh=ONE)
    np.testing.assert_array_equal(found.squared, 0)


def test_balance_is_unique_and_leaves_dead_units_alone():
    spec = dense((4, 5, 6, 3), "positive")
    rows = draw(spec, 5).astype(np.float64)
    rows[0, spec.spans()[0][1].start : 4] = rows[0, spec.spans()[1][1].start] = 0  # nothing writes the first unit
    scales = np.exp(np.random.default_rng(1).normal(size=(5, 11)))
    once = canonical.balance(spec, rows)
    np.testing.assert_allclose(canonical.balance(spec, once), once, rtol=1e-10, atol=1e-12)
    scales[0, 0] = 1
    np.testing.assert_allclose(canonical.balance(spec, canonical.rescaled(spec, rows, scales)), once, atol=1e-10)
    assert canonical.balancing_scales(spec, rows)[0, 0] == 1
    by_spec = spec.rescale(jnp.asarray(rows[1]), [jnp.asarray(s) for s in canonical.by_group(spec, scales[1])])
    np.testing.assert_allclose(canonical.rescaled(spec, rows, scales)[1], by_spec, rtol=1e-5)


def test_neighbours_of_other_groups_and_proposals():
    """Features are lower bounds, exclusion is obeyed, and the search is that of all pairs where all are proposed."""
    spec = dense((4, 5, 6, 3))
    rows, runs = draw(spec, 14), np.arange(14) // 2
    found = quotient.quotient_nearest(rows, rows, spec, 2, runs, runs, proposals=14, mesh=ONE)
    i, j = (x.reshape(-1) for x in np.indices((14, 14)))
    distances = np.sqrt(matching.match(spec, rows[i], rows[j], mesh=ONE).squared).reshape(14, 14)
    described = quotient.features(spec, rows)
    assert (np.linalg.norm(described[i] - described[j], axis=1) <= distances.reshape(-1) + 1e-5).all()
    distances[runs[:, None] == runs[None, :]] = np.inf
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :2], rtol=1e-12)
    assert found.proven_share == 1
    assert quotient.proposal_recall(spec, draw(spec, 40), 0.1 * float(found.distances.mean()), 20, 3, mesh=ONE) == 1


def test_an_audit_flags_reordered_copies_of_deep_networks():
    """Which raw distances miss: to them a reordered copy is as far as a new network."""
    spec = dense((4, 5, 6, 3), "positive")
    rows = draw(spec, 40)
    subject = audit(rows[:16], rows[16:28], rows[28:], spec=spec, baselines=False, bootstrap=20)
    entry = subject.to_json()["series"]["permuted_copy"]
    assert subject.checks["controls_passed"] and not subject.metrics["series"]["generated"]["verdict"]["flagged"]
    assert entry["tests"]["distance"] == "aligned" and entry["aligned_min_l2"]["mean"] < 1e-12
    assert entry["min_l2"]["mean"] > 1
    copies, parents = (x["permuted_copy"] for x in (subject.measured, subject.subject.generated))
    shared = np.unique(parents.records["parent"], return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(copies.sibling_l2 < 1e-5, (shared[2] > 1)[shared[1]])
    assert copies.affine_residual.max() < 1e-5
    assert min(subject.measured[name].affine_residual.min() for name in ("training", "heldout", "generated")) > 1


def test_mistakes_are_named():
    spec = dense((3, 2, 2, 2))
    with pytest.raises(ValueError, match="do not fit"):
        matching.match(spec, np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="unknown starts"):
        matching.match(spec, draw(spec, 1), draw(spec, 1), starts=("zero",))
    with pytest.raises(UserError, match="numbers and the reference vectors"):
        quotient.quotient_nearest(draw(spec, 2)[:, :-1], draw(spec, 2), spec)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_assignments_equal_scipys(warm):
    """From any prices, of costs with ties too."""
    rng = np.random.default_rng(0)
    costs = rng.normal(size=(9, 7, 7)).astype(np.float32)
    costs[:3] = rng.integers(0, 3, (3, 7, 7))
    prices = (rng.normal(size=(9, 7)) if warm else np.full((9, 7), np.nan)).astype(np.float32)
    columns, prices = (np.asarray(x) for x in jax.jit(assignment.assign)(costs, prices))
    assert (np.sort(columns, axis=1) == np.arange(7)).all()
    for cost, chosen, price in zip(costs, columns, prices, strict=True):
        best = linear_sum_assignment(cost)
        assert cost[np.arange(7), chosen].sum() == pytest.approx(cost[best].sum(), abs=1e-5)
        reduced = cost - price[None, :]
        np.testing.assert_allclose(reduced[np.arange(7), chosen], reduced.min(axis=1), atol=1e-5)


def test_pairs_go_on_in_other_blocks(monkeypatch):
    """Where there is memory for a few of them, and where they outlast the rest of their block."""
    monkeypatch.setattr(matching, "_FEW", 0)
    monkeypatch.setattr(matching, "_on_cores", lambda mesh: False)
    spec = dense((6, 7, 7, 3))
    ours, theirs = draw(spec, 20), draw(spec, 20, 1)
    whole = matching.match(spec, ours, theirs, mesh=ONE)
    monkeypatch.setattr(matching, "_BLOCK_PAIRS", {"cpu": (8,)})
    monkeypatch.setattr(matching, "_BLOCK_PAIRS_ACCELERATOR", (8,))
    parts = matching.match(spec, ours, theirs, mesh=ONE)
    np.testing.assert_allclose(parts.squared, whole.squared, rtol=1e-5)
