"""State dicts become weight vectors of the same function, and nothing else does."""

import collections

import numpy as np
import pytest
from foreign import NET, SPEC, TENSORS, P

import jaxweights as jw
from jaxweights import tasks
from jaxweights.errors import UserError

RESNET = tasks.build({"name": "resnet18", "widths": (2,), "depths": (1,), "stem": "cifar"}, (8, 8, 1), 2).spec
CNN = tasks.build({"name": "cnn"}, (28, 28, 1), 3).spec  # a dense layer reads a feature map
LAST = list(TENSORS)[-1]


@pytest.mark.parametrize("spec", [SPEC, RESNET, CNN])
def test_vectors_and_state_dicts_are_inverse(spec):
    vectors = np.random.default_rng(0).normal(size=(2, spec.num_params)).astype(np.float32)
    found = [jw.to_state_dict(vector, spec) for vector in vectors]
    wrapped = [{f"model.{name}": tensor for name, tensor in tensors.items()} for tensors in found]
    counted = [{**tensors, "bn1.num_batches_tracked": np.int64(3)} for tensors in found]
    for given in (found, wrapped, counted):
        np.testing.assert_array_equal(jw.from_state_dicts(given, spec), vectors)
    next(iter(found[0].values()))[:] = 0  # a copy
    assert vectors[0, 0] != 0


def test_kernels_have_the_output_axis_first():
    shapes = {name: tensor.shape for name, tensor in jw.to_state_dict(np.zeros(CNN.num_params), CNN).items()}
    for leaf in CNN.leaves:
        found = shapes[leaf.name.replace("/", ".").replace("kernel", "weight")]
        assert len(found) == len(leaf.shape) and (
            len(found) != 4 or found == tuple(leaf.shape[i] for i in (3, 2, 0, 1))
        )


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([], "no state dicts; give at least one"),
        (TENSORS, "given by their state dicts, one each in a list"),
        (3, "one each, not int"),
        ([np.zeros(P)], r"State dict 0 is of type ndarray; .*module.state_dict\(\)"),
        ([TENSORS, {**TENSORS, LAST: None}], "Tensor .* of state dict 1 is None"),
        ([{k: v for k, v in TENSORS.items() if k != LAST}], rf"1 tensors are missing \({LAST}\), 0 are left over"),
        ([{**TENSORS, "more": np.zeros(2)}], r"1 are left over \(more\)\. Give the spec of this network"),
        ([{"x": np.zeros(2)}], "State dict 0 has none of the tensors of this network"),
        ([{**TENSORS, LAST: np.zeros(7)}], rf"State dict 0: {LAST} has shape \(7,\), this network needs \(2,\)"),
        ([{**TENSORS, LAST: np.array([0, np.nan])}], "has NaN or infinite"),
    ],
)
def test_other_networks_are_refused(networks, message):
    with pytest.raises(UserError, match=message):
        jw.from_state_dicts(networks, SPEC)


def test_vectors_of_another_size_are_refused():
    with pytest.raises(UserError, match=rf"shape \({P - 1},\), but the spec describes \[{P}\]"):
        jw.to_state_dict(np.zeros(P - 1), SPEC)
    with pytest.raises(UserError, match="It holds text"):
        jw.to_state_dict(["a"], SPEC)
    for call in (lambda: jw.to_state_dict(np.zeros(P), None), lambda: jw.from_state_dicts([TENSORS], None)):
        with pytest.raises(UserError, match="spec is of type NoneType; give a WeightSpec"):
            call()


def test_a_module_of_pytorch_has_the_outputs_of_its_vector():
    torch = pytest.importorskip("torch")
    sizes = [leaf.shape for leaf in SPEC.leaves if leaf.name.endswith("weight")]
    layers = [torch.nn.Linear(inputs, outputs) for outputs, inputs in sizes]
    names = [leaf.name.partition("/")[0] for leaf in SPEC.leaves if leaf.name.endswith("weight")]
    module = torch.nn.Sequential(
        collections.OrderedDict([(names[0], layers[0]), ("relu", torch.nn.ReLU()), (names[1], layers[1])])
    )
    (vector,) = jw.from_state_dicts([module.state_dict()], SPEC)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(x)).numpy()
    # Sums in another order.
    np.testing.assert_allclose(NET.apply(vector, x.reshape(5, 2, 2, 1)), theirs, atol=1e-6)
