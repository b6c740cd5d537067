"""Published generators from files as they are released: the parameters are those of the state dicts, which the tests of
each generator compare with the published modules."""

import json

import goldens
import numpy as np
import pytest
import sources
from goldens import draw
from test_hyperrep import NETS, ONES
from test_pdiff_reference import tree

import jaxweights as jw
from jaxweights.errors import UserError
from jaxweights.generators.hyperrep import HyperRep, importer
from jaxweights.generators.pdiff import importer as pdiff
from jaxweights.generators.state_dict import StateDict
from jaxweights.population import Population, from_array


@pytest.mark.parametrize(
    "name, file, wrapped",
    [
        ("gpt", "mnist_loss.pt", lambda saved, others: {"G": others, "G_ema": saved, "optim": {"step": 3}}),
        ("hyperdiffusion", "plane.ckpt", lambda saved, others: {"epoch": 9, "state_dict": saved, "loops": {}}),
    ],
)
def test_transformers_are_found_in_their_files(name, file, wrapped, tmp_path, monkeypatch):
    golden = goldens.load(name)
    shapes = json.loads(str(golden["tensor/shapes" if name == "gpt" else "shapes"]))
    saved = {**draw(shapes, 0), "betas": np.zeros(500, np.float32)}
    others = {name: value + 1 for name, value in saved.items()}
    sources.save_torch(tmp_path / file, wrapped(saved, others), monkeypatch)
    read = StateDict(tmp_path / file, "", name)
    assert read.names == set(saved) and all(np.array_equal(read.take(key), saved[key]) for key in shapes)


def test_generators_without_files_and_settings_that_files_lack_are_refused(tmp_path):
    networks = from_array(np.ones((4, 5), np.float32))
    with pytest.raises(UserError, match="generators.gpt.scale|scale"):
        jw.released("gpt", tmp_path / "mnist_loss.pt", networks, scale=None)
    with pytest.raises(UserError, match="No released generator is called 'gaussian'; there are .*hyperrep"):
        jw.released("gaussian", tmp_path / "mnist_loss.pt", networks)


def test_both_networks_of_pdiff_are_in_one_file(tmp_path, monkeypatch):
    golden = goldens.load("pdiff")
    nested = tree({k.replace("/net.", "/net/"): v for k, v in golden.items()}, "checkpoint/diffusion")["net"]
    saved = {"diffusion": {f"net.{k}": v for k, v in nested.items()}, "vae": tree(golden, "checkpoint/vae")}
    saved["diffusion"] |= {f"diffusion_trainer.model.{name}": value for name, value in nested.items()}  # aliases
    sources.save_torch(tmp_path / "cifar100_resnet18.pth", saved, monkeypatch)
    read = pdiff.parts(tmp_path / "cifar100_resnet18.pth")
    assert {part: set(tensors) for part, tensors in read.items()} == {part: set(saved[part]) for part in saved}
    assert all(np.array_equal(read[part][k], v) for part in saved for k, v in saved[part].items())
    with pytest.raises(UserError, match="standardise_latents=False"):
        jw.released("pdiff", tmp_path / "cifar100_resnet18.pth", from_array(np.ones((4, 128), np.float32)))


@pytest.mark.parametrize("name", ["plain", "token", "mlp"])
def test_sizes_of_hyper_representations_are_read_off_the_file(name, tmp_path, monkeypatch):
    golden = goldens.load("hyperrep")
    wanted = json.loads(str(golden[f"{name}/settings"]))
    spec = NETS[wanted.pop("net")].spec
    sources.save_torch(
        tmp_path / "checkpoint_ae.pt", draw(json.loads(str(golden[f"{name}/shapes"])), 0, ONES), monkeypatch
    )
    made = []
    monkeypatch.setattr(importer, "from_torch", lambda file, layout, architecture: made.append(architecture) or {})
    monkeypatch.setattr(HyperRep, "finish", lambda self, state, data: {"latents": data})
    networks = Population.create(np.ones((4, spec.num_params), np.float32), spec)
    with pytest.raises(UserError, match="how many heads"):
        jw.released("hyperrep", tmp_path / "checkpoint_ae.pt", networks)
    stated = {"model::N_attention_heads": wanted["heads"], "model::bottleneck": wanted.get("bottleneck", "linear")}
    sources.write_json(tmp_path / "config_ae.json", stated)
    model = jw.released("hyperrep", tmp_path / "checkpoint_ae.pt", networks, permutations="none")
    expected = HyperRep(**{key: value for key, value in wanted.items() if key != "permutations_number"})
    of_mlp = () if name == "mlp" else ("dropout", "bottleneck_layers")
    sizes = {key: getattr(expected.architecture, key) for key in wanted if hasattr(made[0], key) and key not in of_mlp}
    assert {key: getattr(made[0], key) for key in sizes} == sizes and len(sizes) > 5
    assert np.array_equal(model.state["latents"], networks.weights)
