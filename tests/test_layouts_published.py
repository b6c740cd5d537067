"""Published zoos in miniature, under their own names: what is recognised in them, and their networks number by
number."""

import types

import numpy as np
import pytest
import sources

from jaxweights import extras, layouts
from jaxweights.errors import UserError
from jaxweights.layouts import importing, orders, plans, sane


def plan_of(path, **options):
    return plans.make(layouts.recognise(path), path, layouts.Options(**options))


def counts(plan):
    """Training, held-out and generated runs."""
    return tuple(plan.split.count(split) for split in ("train", "heldout", "generated"))


def vector(plan, key):
    """A network of a plan, as it is imported."""
    return importing.Flattener(plan.shapes, plan.found.by_order)(plan.found.read(key))


CASES = {
    "modelzoos": (sources.modelzoos, (2, 8, 0), "cnn", ""),
    "pdiff": (sources.pdiff, (1, 0, 4), None, "cifar100"),
    "hyperdiffusion": (sources.hyperdiffusion, (2, 7, 0), "field", "occupancy of shapes"),
    "deepweightflow": (sources.deepweightflow, (2, 8, 0), "mlp", "mnist"),
    "fields": (sources.fields, (6, 6, 0), "field", "fields of images"),
    "huggingface": (sources.huggingface, (3, 0, 0), None, ""),
    "smallcnn": (sources.smallcnn, (4, 8, 0), None, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_a_published_zoo_is_recognised(name, tmp_path):
    write, runs, net, data = CASES[name]
    path = write(tmp_path / name)
    plan = plan_of(path)
    found = plan.found.layout, counts(plan), plan.architecture.net.get("name"), plan.recipe.data
    assert found == (
        name,
        runs,
        net,
        data,
    )
    assert plan.recipe.activation and len(plans.rows(plan)) > 6
    assert len(importing.write(plan, tmp_path / "work")) == len(plan.entries)


def test_modelzoos_are_told_by_iteration_and_by_the_order_of_tensors(tmp_path):
    plan = plan_of(sources.modelzoos(tmp_path / "mnist"))
    assert (plan.recipe.data, str(plan.recipe.normalisation)) == ("mnist", "inputs less (0.1307), divided by (0.3081)")
    rows = {(entry.run[-2:], entry.step): entry for entry in plan.entries}
    assert np.isnan(rows["04", 1].accuracy) and rows["04", 2].accuracy == pytest.approx(0.24)
    assert rows["05", 0].seed == 6 and rows["05", 2].properties["hyper/dropout"] == 0.1
    assert rows["01", 2].properties["ggap"] == pytest.approx(0.4 - 0.21)
    assert rows["01", 0].accuracy == 0.01 and not {"ggap", "train_acc", "train_loss"} & set(rows["01", 0].properties)
    np.testing.assert_array_equal(vector(plan, rows["03", 2].key), sources.flat(sources.cnn(32)))
    (tmp_path / "mnist" / "NN_tune_trainable_00002" / "checkpoint_1" / "checkpoints").unlink()
    with pytest.raises(UserError, match="(?s)1 of 29 .*NN_tune_trainable_00002/checkpoint_1"):
        importing.write(plan_of(tmp_path / "mnist"), tmp_path / "work")


@pytest.mark.parametrize("vectors", [False, True])
def test_pickled_datasets_are_read_without_their_classes(vectors, tmp_path, monkeypatch):
    plan = plan_of(sources.dataset(tmp_path / "svhn" / "dataset.pt", monkeypatch, vectors))
    assert counts(plan) == (3, 9, 0) and plan.recipe.data == "svhn" and plan.architecture.net["name"] == "cnn"
    entry = plan.entries[-1]
    assert (entry.run, entry.step, entry.accuracy) == ("NN_tune_trainable_00011", 22, 0.11)
    np.testing.assert_array_equal(vector(plan, entry.key), sources.flat(sources.cnn(1122)))


def test_the_small_cnn_zoo_is_turned_and_split_as_published(tmp_path):
    folder = sources.smallcnn(tmp_path / "zoo")
    plan = plan_of(folder, splits=str(folder / "order.csv"))
    splits = {entry.run: entry.split for entry in plan.entries}
    assert sorted(splits.values()) == 6 * ["test"] + 4 * ["train"] + 2 * ["val"] and counts(plan) == (4, 8, 0)
    row, read = np.load(folder / "weights.npy")[1], plan.found.read("1")
    assert read["conv1.weight"][1, 0, 2, 0] == row[2:20].reshape(3, 3, 1, 2)[2, 0, 0, 1]
    assert read["fc1.weight"][2, 1] == row[23:].reshape(2, 3)[1, 2]
    assert list(plan.shapes) == ["conv1.bias", "conv1.weight", "fc1.bias", "fc1.weight"]
    assert len(plan.architecture.spec.groups) == 1


def test_gpt_is_read_from_fused_environments(tmp_path, monkeypatch):
    lmdb = types.SimpleNamespace(open=sources.Environment, Error=OSError)
    monkeypatch.setattr(extras, "module", lambda extra, name: {"lmdb": lmdb}[name])
    plan = plan_of(sources.gpt(tmp_path / "mnist"))
    assert plan.found.layout == "gpt" and plan.split.runs == ("000000", "000001", "000002")
    assert [(e.step, e.accuracy, e.seed) for e in plan.entries[-3:]] == [(0, 1.0, 2), (468, 1.0, 2), (11700, 0.76, 2)]
    expected = np.asarray(sources.rng(2).normal(size=7960), np.float32)
    np.testing.assert_array_equal(vector(plan, plan.entries[-1].key), expected)
    with pytest.raises(UserError, match="there is no key absent"):
        plan.found.read("000000\tabsent")
    (tmp_path / "mnist" / "000000").rename(tmp_path / "mnist" / "own_run")
    assert plan_of(tmp_path / "mnist").split.runs == ("000001", "000002", "own_run")


def test_orders_of_published_arrays_are_ours_again():
    shapes = {name: tensor.shape for name, tensor in sources.mlp(0).items()}
    tensors = sources.mlp(0)
    weights, biases = [t for t in tensors.values() if t.ndim == 2], [t for t in tensors.values() if t.ndim == 1]
    first = np.concatenate([t.ravel() for t in weights + biases])
    turned = np.concatenate([t.T.ravel() for t in weights] + biases)
    for order, row in (("state_dict", sources.flat(tensors)), ("deepweightflow", first), ("weightflow", turned)):
        np.testing.assert_array_equal(row[orders.index(shapes, order)], sources.flat(tensors))


def test_weightflow_needs_the_rows_of_a_run(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra formats is not installed")
    rows = sources.rng().normal(size=(20, 7960)).astype("f4")
    path = tmp_path / "zoo.h5"
    with h5py.File(path, "w") as file:
        file["dataset"] = rows
    with pytest.raises(UserError, match="--rows_per_run"):
        plan_of(path)
    plan = plan_of(path, rows_per_run=2)
    assert counts(plan) == (2, 8, 0) and plan.found.layout == "weightflow"
    assert vector(plan, "3")[1] == rows[3, 10]  # the second input of the first unit


def test_nfn_is_split_by_images(tmp_path):
    plan = plan_of(sources.functionals(tmp_path / "cifar"))
    split = {int(entry.properties["image"]): entry.split for entry in plan.entries}
    assert split == {0: "train", 44999: "train", 45000: "val", 49999: "val", 50000: "test", 50001: "test"}
    assert plan.architecture.net["outputs"] == 3 and plan.architecture.spec.groups[0].scaling == "sign"


def test_sane_gives_networks_and_models_but_no_samples(tmp_path):
    (tmp_path / "data" / "dataset_torch.train").mkdir(parents=True)
    sources.write_json(tmp_path / "data" / "dataset_info_train.json", {"zoo_path": "/zoos/cifar"})
    with pytest.raises(UserError, match="cannot be rebuilt.*/zoos/cifar.*folder of the runs"):
        plan_of(tmp_path / "data")
    for i in range(3):
        sources.save(tmp_path / "made" / f"checkpoint_{i}.pt", sources.cnn(i))
    assert counts(plan_of(tmp_path / "made")) == (0, 0, 3)
    sources.save(tmp_path / "model" / "state.pt", {"model._orig_mod.encoder.weight": sources.rng().normal(size=(2, 2))})
    tensors, settings = sane.model(tmp_path / "model")
    assert list(tensors) == ["encoder.weight"] and settings == {}
    sources.write_json(tmp_path / "model" / "params.json", {"ae:d_model": 8, "seed": 1})
    assert sane.model(tmp_path / "model")[1] == {"ae:d_model": 8}


def test_shards_lie_in_their_folder(tmp_path):
    folder = sources.huggingface(tmp_path / "hub")
    plan = plan_of(folder)
    assert (plan.recipe.activation, str(plan.recipe.normalisation)) == ("gelu", "inputs less (0.5), divided by (0.25)")
    assert plan.entries[0].step == 500 and plan.split.runs == ("seed0", "seed1", "seed2")
    assert list(plan.shapes) == ["model.a.weight", "b.weight"]
    index = folder / "seed1" / "checkpoint-500" / "model.safetensors.index.json"
    sources.write_json(index, {"weight_map": {"a.weight": "../../seed0/checkpoint-500/model-0.safetensors"}})
    with pytest.raises(UserError, match="not in its folder"):
        importing.write(plan, tmp_path / "work")
    sources.write_json(index, {"weight_map": {"c.weight": "model-0.safetensors"}})
    with pytest.raises(UserError, match=r"names c\.weight, which no shard has"):
        plan.found.read("seed1/checkpoint-500")
    sources.write_json(folder / "seed2" / "checkpoint-500" / "config.json", {"hidden_act": "relu"})
    assert plan_of(folder).recipe.activation == "unknown"


def test_one_file_of_rows_is_told_by_its_size(tmp_path):
    rows = sources.rng().normal(size=(9, 7960)).astype("f4")
    np.save(tmp_path / "rows.npy", rows)
    plan = plan_of(tmp_path / "rows.npy", order="weightflow")
    assert counts(plan) == (1, 8, 0) and plan.architecture.net["hidden"] == (10,)
    assert vector(plan, "4")[1] == rows[4, 10]
    np.save(tmp_path / "others.npy", rows[:, :50])
    with pytest.raises(UserError, match="of which tensors"):
        plan_of(tmp_path / "others.npy")
