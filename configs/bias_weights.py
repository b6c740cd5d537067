"""Which transformed weights betray their zoo: three zoos of digits classifiers.

    python -m launch.classify --config=configs/bias_weights.py --workdir=runs/bias_weights

The networks of the second zoo see all images with their pixels in one other order, those of the third are trained with
20 % wrong labels. The values of weights and their spectra do not know the order of the pixels, so that only the third
zoo is told apart by them. An argument chooses the classifier: `configs/bias_weights.py:mlp` (the default), `:linear`,
or `:units`, which does not see the order of hidden units and takes only transformations that make networks of networks.
`configs/bias_weights.py:mlp,inherited` compares samples of a generator of each zoo as well, asks classifiers that learn
from zoos about samples, and the other way round.
"""

from ml_collections import ConfigDict

ZOOS = {
    "plain": {},
    "permuted_pixels": {"seed": 1, "data": {"permute_pixels": 1}},
    "wrong_labels": {"seed": 2, "data": {"label_noise": 0.2}},
}
NETWORKS = {
    "raw": {"kind": "raw"},
    "permuted": {"kind": "permuted"},
    "canonical": {"kind": "canonical"},
    "shuffled": {"kind": "shuffled"},
    "shuffled_fixed": {"kind": "shuffled", "fixed": True},
    "shuffled_blocks_8": {"kind": "shuffled", "block": 8},
    "rank_2": {"kind": "low_rank", "rank": 2},
    "beyond_rank_2": {"kind": "low_rank", "rank": 2, "keep": "residual"},
    "sign": {"kind": "sign"},
    "magnitude": {"kind": "magnitude"},
    "two_bits": {"kind": "quantised", "bits": 2},
    "pca": {"kind": "pca"},
}
NUMBERS = {
    "matched": {"kind": "matched"},
    "sorted": {"kind": "sorted"},
    "statistics": {"kind": "statistics"},
    "statistics_of_all": {"kind": "statistics", "per": "network"},
    "singular_values": {"kind": "singular_values"},
    "norms": {"kind": "norms"},
    "low_frequencies": {"kind": "frequencies"},
    "high_frequencies": {"kind": "frequencies", "keep": "high"},
    "products": {"kind": "products"},
    "outputs": {"kind": "outputs"},
}


def get_config(choice: str = "mlp"):
    """The comparison of three zoos.

    Args:
      choice: kind of the classifier; with ",inherited" also a set of generated networks.
    """
    classifier, _, inherited = choice.partition(",")
    config = ConfigDict()
    config.seed = 0
    config.data = {"name": "digits"}
    config.net = {"name": "mlp", "hidden": (16,)}
    config.zoo = {
        "num_runs": 600,
        "num_heldout": 0,
        "steps": 300,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "schedule": "constant",
    }
    sets = {"zoos": {"collections": ZOOS}}
    if inherited:
        drawn = {"generator": {"kind": "pca_gaussian", "components": 100}, "samples": 600}
        sets["inherited"] = {"collections": {name: {**zoo, **drawn} for name, zoo in ZOOS.items()}}
        sets["zoos_to_samples"] = {"learn": "zoos", "ask": "inherited"}
        sets["samples_to_zoos"] = {"learn": "inherited", "ask": "zoos"}
    config.bias = {
        "kind": "weights",
        "sets": sets,
        "main": "zoos",
        "transformations": NETWORKS | (NUMBERS if classifier != "units" else {}),
        "classifier": {"kind": classifier},
        "num_train": 460,
        "num_validation": 130,
    }
    return config
