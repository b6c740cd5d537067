"""What cannot be done is refused before anything is trained, loaded or allocated, with the number and the cure."""

import re
import shutil
import types

import mini
import mini_gpt
import mini_hyperrep
import mini_pdiff
import numpy as np
import pytest

from jaxweights import memory
from jaxweights.describe import describe
from jaxweights.errors import UserError
from jaxweights.experiment import Experiment
from launch.common import aligned
from launch.describe import rows

CONFIGS = {m.__name__: m.get_config().to_dict() for m in (mini, mini_gpt, mini_hyperrep, mini_pdiff)}
GIGA = 1_000_000_000

REFUSED = [
    # Settings that do not go together, or with the data.
    ("mini", {"generators.average.k": 33}, "'average' needs at least 33 training networks, but .* has 32"),
    ("mini", {"generators.pca_gaussian.components": 32}, "asks for 32 principal components, .* span 31"),
    ("mini", {"zoo.num_runs": 1}, r"there is only one. Train more runs \(zoo.num_runs\)"),
    ("mini", {"zoo.num_heldout": 7}, "zoo.num_heldout is 7; set it to at least 8"),
    ("mini", {"zoo.batch_size": 401}, "zoo.batch_size is 401, but must lie between 1 and the 400 training examples"),
    ("mini", {"data.train_limit": 63}, "zoo.batch_size is 64, but must lie between 1 and the 63 training examples"),
    ("mini", {"zoo.snapshots": (3, 2)}, "zoo.snapshots must be ascending steps between 0 and 48"),
    ("mini", {"zoo.snapshots": (49,)}, "zoo.snapshots must be ascending steps between 0 and 48"),
    ("mini", {"zoo.snapshot_range": (1, 49)}, "first and the last of consecutive steps between 0 and 48"),
    ("mini", {"zoo.random_snapshots": 48}, "must lie between 0 and 47"),
    ("mini", {"zoo.start": "base"}, "zoo.start is 'base', but there is none"),
    ("mini", {"zoo.base.epochs": 1}, "There is a base network, but zoo.start is 'shared'"),
    ("mini", {"zoo.subset": ("fc1/*",)}, "there is no base network"),
    ("mini", {"net.crop": 4}, "net.crop is 4 and net.resize 0"),
    ("mini", {"data.crop": 29, "data.name": "mnist"}, "images of 28 by 28 pixels have no such square"),
    ("mini", {"data.mean": (0.5, 0.5), "data.std": (0.5, 0.5), "data.name": "mnist"}, "for each of the 1 colours"),
    ("mini", {"generators.pdiff.batch_size": 1}, "generators.pdiff.batch_size is 1; set it to at least 2"),
    ("mini", {"data.name": "oxford_flowers102"}, "set config.data.resize"),
    ("mini_gpt", {"zoo.random_snapshots": 0}, "learns from pairs of checkpoints of one run"),
    ("mini_gpt", {"generators.gpt.batch_size": 65}, "batches of 65, but there are only 64 training examples"),
    ("mini_gpt", {"generators.gpt.conditioning": "reward"}, "gpt.conditioning is 'reward', but .* no such column"),
    ("mini_hyperrep", {"generators.hyperrep.layer_weights": (1.0,)}, "layer_weights has 1 entries, .* 2 layers"),
    ("mini_hyperrep", {"generators.hyperrep.batch_size": 65}, "batches of 65, but there are only"),
    ("mini_pdiff", {"zoo.base.batch_size": 401}, "zoo.base.batch_size is 401, but .* the 400 training examples"),
    ("mini_pdiff", {"zoo.start": "own"}, "There is a base network, but zoo.start is 'own'"),
    ("mini_pdiff", {"zoo.init_scale": 2.0}, "runs start from a base. Leave it at 1"),
    ("mini_pdiff", {"zoo.subset": ("layer9/*",)}, "matches no leaf that is trained"),
    # What no machine's memory holds.
    ("mini", {"net.hidden": (GIGA,)}, "The network needs about 600GB of memory, .* net"),
    ("mini", {"net.hidden": (GIGA, GIGA)}, r"parameters, but this machine has 16GB\. Make the network smaller"),
    ("mini", {"zoo.num_runs": GIGA}, "1,000,000,000 training networks, but .* Lower zoo.num_runs"),
    ("mini", {"zoo.num_heldout": GIGA}, "1,000,000,000 networks, but .* Lower zoo.num_heldout"),
    ("mini", {"num_samples": GIGA}, "1,000,000,000 networks, but .* Lower num_samples"),
    ("mini", {"zoo.lanes": GIGA}, "for activations, .* Lower zoo.batch_size or zoo.lanes"),
    ("mini", {"net.resize": 4096, "net.hidden": (4096,)}, "The network needs"),
    ("mini", {"zoo.steps": GIGA, "zoo.snapshot_range": (1, 20_000_000)}, "keep at most 1000000 snapshots per run"),
    (
        "mini",
        {"zoo.steps": GIGA, "zoo.snapshot_range": (1, 1_000_000), "net.hidden": (99,)},
        "Keep fewer snapshots",
    ),
    ("mini", {"generators.pdiff.batch_size": GIGA}, "generators.pdiff needs about .* Lower the sizes"),
    ("mini", {"generators.pdiff.latent_dim": 1_000_000}, "generators.pdiff needs about .* weights and optimizer state"),
    ("mini_gpt", {"generators.gpt.width": 65_536}, "generators.gpt needs about .* Lower the sizes in generators.gpt"),
    (
        "mini_hyperrep",
        {
            "generators.hyperrep.permutations": "table",
            "generators.hyperrep.permutations_number": 10**7,
            "net.hidden": (99,),
        },
        "generators.hyperrep needs about",
    ),
]


def changed(name, changes):
    return mini.changed(CONFIGS[name], changes)


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_impossible_experiments_are_described_as_such(monkeypatch, name, changes, message):
    monkeypatch.setattr(memory, "host", lambda: 16 * GIGA)
    try:
        said = describe(changed(name, changes))["lacks"]
    except UserError as error:
        said = str(error)
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 10**8}, "Every series of samples needs about 154GB of memory"),
        ({"zoo.import_npz": "absent.npz"}, "zoo.import_npz is 'absent.npz'; there is no such file"),
        ({"generators.mine": {"kind": "file", "path": "absent.npz"}}, "generators.mine.path is 'absent.npz'; there is"),
        ({"generators.pdiff.latent_dim": 1_000_000}, "generators.pdiff needs about"),
    ],
)
def test_what_the_machine_lacks_is_said_before_training(monkeypatch, tmp_path, changes, message):
    monkeypatch.setattr(memory, "host", lambda: 16 * GIGA)
    with pytest.raises(UserError, match=message):
        Experiment(changed("mini", changes), tmp_path).run()
    assert not (tmp_path / "zoo").exists()


def test_an_imported_zoo_is_described_with_its_own_runs(tmp_path):
    path, rng = tmp_path / "zoo.npz", np.random.default_rng(0)
    weights = rng.normal(size=(93, 385)).astype(np.float32)
    np.savez(path, weights=weights, run=np.arange(93) // 2, step=np.arange(93) % 2)
    config = changed("mini", {"zoo.import_npz": str(path), "zoo.num_runs": 7, "zoo.num_heldout": 9})
    zoo = describe(config)["zoo"]
    assert {name: zoo[name] for name in ("num_runs", "num_heldout", "snapshots_per_run", "rows", "steps")} == {
        "num_runs": 38,
        "num_heldout": 9,
        "snapshots_per_run": 2,
        "rows": 93,
        "steps": 0,
    }
    assert zoo["bytes"] == weights.nbytes and "the last 9 of 47 runs are held out" in zoo["taken_for"][0]
    assert "38 training + 9 held out; networks of" in aligned(rows(describe(config)))
    np.savez(path, weights=weights[:20])
    with pytest.raises(UserError, match="'average' needs at least 16 training networks, but .* has 11"):
        describe(config)
    np.savez(path, weights=weights[:, 1:])
    with pytest.raises(UserError, match=r"shape \(93, 384\)"):
        describe(config)


def test_nothing_is_trained_or_written_by_a_refused_experiment(monkeypatch, tmp_path):
    one = Experiment(changed("mini", {"generators.average.k": 33}), tmp_path)
    with pytest.raises(UserError, match="at least 33 training networks"):
        one.run()
    assert not (tmp_path / "zoo").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="The zoo takes 67.8kB on disk, but .* 1kB free"):
        Experiment(CONFIGS["mini"], tmp_path).zoo()  # the corrected config, in the same workdir
    assert not (tmp_path / "zoo").exists()
