"""Networks of others in the layouts of published zoos, in miniature, with the names that these have."""

import collections
import contextlib
import gzip
import io
import json
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
from audited import write_safetensors


def rng(seed=0):
    return np.random.default_rng(seed)


def mlp(seed, widths=(6, 4, 3), name="fc{}", first=1, step=1):
    """The state dict of an MLP."""
    found = {}
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        layer = name.format(first + step * i)
        found[f"{layer}.weight"] = rng(1000 * seed + i).normal(size=(outputs, inputs)).astype("f4")
        found[f"{layer}.bias"] = rng(1000 * seed + i + 500).normal(size=outputs).astype("f4")
    return found


def flat(state_dict):
    """The tensors of a state dict one after the other."""
    return np.concatenate([tensor.ravel() for tensor in state_dict.values()])


def save(path, state_dict):
    """Writes a safetensors file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, state_dict)


class _Storage:
    """Stands for a storage class of torch, by name."""


def _torch(monkeypatch):
    """A module `torch` that pickles can name."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    kind = type("FloatStorage", (_Storage,), {"__module__": "torch", "__qualname__": "FloatStorage"})

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("a file is written, not read")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch.FloatStorage, torch._utils = _rebuild_tensor_v2, kind, utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return kind, _rebuild_tensor_v2


def save_torch(path, value, monkeypatch):
    """Writes the zip container of `torch.save`: any objects, in which arrays of float32 are tensors."""
    storage, rebuild = _torch(monkeypatch)
    arrays = []

    class Reference:
        def __init__(self, number):
            self.number = number

    class Pickler(pickle.Pickler):
        def reducer_override(self, found):
            if not isinstance(found, np.ndarray):
                return NotImplemented
            arrays.append(np.ascontiguousarray(found, "<f4"))
            strides = tuple(s // 4 for s in arrays[-1].reshape(found.shape).strides)
            reference = Reference(len(arrays) - 1)
            return rebuild, (reference, 0, found.shape, strides, False, collections.OrderedDict())

        def persistent_id(self, found):
            if isinstance(found, Reference):
                size = arrays[found.number].size
                return ("storage", storage, str(found.number), "cpu", size)
            return None

    content = io.BytesIO()
    Pickler(content, protocol=2).dump(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        for number, array in enumerate(arrays):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


CNN = {"0": (8, 1, 5, 5), "3": (6, 8, 5, 5), "6": (4, 6, 2, 2), "9": (20, 36), "11": (10, 20)}
DROPOUT = dict(zip(CNN, ("0", "4", "8", "11", "14"), strict=True))


def cnn(seed, dropout=False):
    """The state dict of the ModelZoos' small network, whose layers have other numbers with dropout."""
    draw, found = rng(seed), {}
    for number, shape in CNN.items():
        name = f"module_list.{DROPOUT[number] if dropout else number}"
        found[f"{name}.weight"] = draw.normal(size=shape).astype("f4")
        found[f"{name}.bias"] = draw.normal(size=shape[0]).astype("f4")
    return found


def modelzoos(folder):
    """Run folders of the MNIST zoo: 10 runs of two epochs and the initialisation, every other with dropout."""
    for run in range(10):
        place = folder / f"NN_tune_trainable_{run:05d}"
        config = {"model::nlin": "tanh", "model::dropout": 0.1 * (run % 2), "optim::lr": 3e-4, "seed": run + 1}
        write_json(place / "params.json", config)
        lines = [
            {"training_iteration": e, "test_acc": 0.1 * e + 0.01 * run, "test_loss": 3.0 - e}
            | {"train_acc": 0.2 * e or -999, "train_loss": 2.0 - e if e else -999}
            for e in range(3)
            if (run, e) != (4, 1)  # a line that is missing
        ]
        (place / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"training_')
        for e in range(3):
            name = f"checkpoint_{e}" if run < 5 else f"checkpoint_{e:06d}"
            save(place / name / "checkpoints", cnn(10 * run + e, dropout=run % 2 == 1))
    return folder


def pdiff(folder):
    """One run's checkpoints of two layers, and samples."""
    for i in range(4):
        tensors = {f"model.layer4.1.bn{n}.{part}": rng(i).normal(size=5).astype("f4") for n in (1, 2) for part in "ab"}
        save(folder / "checkpoint" / f"{i:04d}_acc0.76{i:02d}_seed0040_cifar100_resnet18.pth", tensors)
        save(folder / "generated" / f"generated_cifar100_resnet18_{i + 1:03d}.pth", tensors)
    return folder


def hyperdiffusion(folder):
    """A network per shape, with the lists of splits beside the folder."""
    networks = folder / "3d_128_plane"
    for i in range(9):
        save(networks / f"occ_{i:02x}ab_jitter_0_model_final.pth", mlp(i, (27, 128, 128, 128, 1), "layers.{}", 0))
    save(
        networks / "occ_dir1_jitter_0" / "checkpoints" / "model_current.pth",
        mlp(9, (27, 128, 128, 128, 1), "layers.{}", 0),
    )
    (folder / "train_split.lst").write_text("00ab.obj\n01ab.obj\ndir1.obj\n")
    (folder / "test_split.lst").write_text("".join(f"{i:02x}ab.obj\n" for i in range(2, 9)))
    (folder / "plane_problematic_shapes.txt").write_text("01ab\n")
    return networks


def deepweightflow(folder):
    """Ten MLPs of the MNIST zoo."""
    for i in range(10):
        save(folder / "mnist_models" / f"mlp_seed{i}.pt", mlp(i, (784, 32, 32, 10)))
    return folder / "mnist_models"


def fields(folder):
    """Fields of images, with a split file whose paths are of another machine."""
    parts = {"train": [], "val": [], "test": []}
    for i in range(12):
        name = f"mnist_png_{'training' if i < 8 else 'testing'}_{i % 10}_{i}/checkpoints/model_final.pth"
        save(folder / name, mlp(i, (2, 32, 32, 1), "seq.{}", 0))
        parts["train" if i < 6 else "val" if i < 8 else "test"].append(f"/elsewhere/inrs/{name}")
    write_json(folder / "mnist_splits.json", {k: {"path": v, "label": ["0"] * len(v)} for k, v in parts.items()})
    return folder


def functionals(folder):
    """Fields of nfn, whose split is by the number of the image."""
    for i in (0, 44999, 45000, 49999, 50000, 50001):
        tensors = mlp(i, (2, 32, 32, 3), "net.{}.linear", 0)
        tensors = {name.replace("2.linear", "2"): value for name, value in tensors.items()}
        save(folder / f"randinit_smaller_{i % 10}s" / f"net{i}.pth", tensors)
    return folder


def huggingface(folder):
    """Networks in two shards each, at a step that their folder names."""
    for i in range(3):
        place = folder / f"seed{i}" / "checkpoint-500"
        write_json(place / "config.json", {"hidden_act": "gelu"})
        write_json(place / "preprocessor_config.json", {"image_mean": [0.5], "image_std": [0.25]})
        parts = [{f"{name}.weight": rng(i).normal(size=(3, 2)).astype("f4")} for name in ("model.a", "b")]
        for number, part in enumerate(parts):
            save(place / f"model-{number}.safetensors", part)
        where = {name: f"model-{number}.safetensors" for number, part in enumerate(parts) for name in part}
        write_json(place / "model.safetensors.index.json", {"weight_map": where})
    return folder


def smallcnn(folder):
    """Twelve runs of two checkpoints of a tiny network in TensorFlow's order, and the index file of a split."""
    folder.mkdir()
    shapes = {"conv2d/bias:0": (2,), "conv2d/kernel:0": (3, 3, 1, 2), "dense/bias:0": (3,), "dense/kernel:0": (2, 3)}
    lines, start = ["varname,start_idx,end_idx,shape"], 0
    for name, shape in shapes.items():
        stop = start + int(np.prod(shape))
        lines.append(f'sequential/{name},{start},{stop},"{shape}"')
        start = stop
    (folder / "layout.csv").write_text("\n".join(lines))
    np.save(folder / "weights.npy", np.arange(24 * start, dtype="f4").reshape(24, start))
    rows = ["config.activation,config.learning_rate,config.random_seed,modeldir,step,test_accuracy,test_loss"]
    rows += [f"relu,0.1,{i // 2},/zoo/{i // 2},{86 * (i % 2)},0.{50 + i},1.0" for i in range(24)]
    with gzip.open(folder / "metrics.csv.gz", "wt") as file:
        file.write("\n".join(rows))
    np.savetxt(folder / "order.csv", rng().permutation(24), fmt="%d")
    return folder


def gpt(folder):
    """Environments of one run and of two, as tables of keys: what a stand-in for `lmdb` reads."""
    keys = [(0, 0), (0, 468), (24, 468)]
    for name in ("000000", "000001_000002"):
        runs = {}
        for run in name.split("_"):
            checkpoints = {f"{run}/ep{e:03d}_it{i:05d}.pt": {"avg_test_loss": 1.0, "avg_test_err": e} for e, i in keys}
            runs[run] = {"checkpoints": checkpoints, "metadata": {}}
        table = {
            key: rng(i).normal(size=7960).tolist() for run in runs.values() for i, key in enumerate(run["checkpoints"])
        }
        table |= {f"{key}_arch": [7840.0, 10.0, 100.0, 10.0] for key in table}
        write_json(folder / name / "data.mdb", table)
        write_json(folder / name / "runs.json", runs if len(runs) > 1 else runs[name])
    return folder


class Environment:
    """Stands for an environment of `lmdb`."""

    def __init__(self, path, **options):
        assert options == {"readonly": True, "lock": False, "readahead": False}
        self.table = json.loads((pathlib.Path(path) / "data.mdb").read_text())

    def begin(self):
        return contextlib.nullcontext(self)

    def get(self, key):
        found = self.table.get(key.decode())
        return None if found is None else np.asarray(found, "<f4").tobytes()

    def close(self):
        self.table = {}


def dataset(path, monkeypatch, vectors=False):
    """`dataset.pt` of Hyper-Representations: objects of a class that is not at hand, 12 runs of two epochs."""
    kind = type("SimCLRDataset", (), {"__module__": "ghrp.checkpoints_to_datasets.dataset_simclr"})
    for name in ("ghrp", "ghrp.checkpoints_to_datasets", kind.__module__):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[kind.__module__].SimCLRDataset = kind
    parts = {}
    for name, runs in (("trainset", range(3)), ("valset", range(3, 5)), ("testset", range(5, 12))):
        rows = [(run, epoch) for run in runs for epoch in (21, 22)]
        networks = [collections.OrderedDict(cnn(100 * run + epoch)) for run, epoch in rows]
        made = kind()
        made.data_in = [flat(network) for network in networks] if vectors else networks
        made.paths = [pathlib.PurePosixPath(f"/zoo/NN_tune_trainable_{run:05d}") for run, _ in rows]
        made.epochs = [epoch for _, epoch in rows]
        made.properties = {"test_acc": [run / 100 for run, _ in rows], "ggap": [0.5] * len(rows)}
        parts[name] = made
    save_torch(path, parts, monkeypatch)
    return path
