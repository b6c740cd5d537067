"""A full audit at size: seconds, compilation included, and the largest resident memory.

    python -m launch.benchmark_audit --train=10000 --heldout=2000 --generated=2000

Networks are digits MLPs 64-16-10 of independent initialisations; the generated ones are drawn from a Gaussian of
principal components. Baselines and controls, evaluations, the battery and intervals are those of `jw.audit`.
"""

from __future__ import annotations

import json
import pathlib
import time

from absl import flags

from launch import common

_TRAIN = flags.DEFINE_integer("train", 10_000, "Training networks.", lower_bound=64)
_HELDOUT = flags.DEFINE_integer("heldout", 2000, "Held-out networks.", lower_bound=8)
_GENERATED = flags.DEFINE_integer("generated", 2000, "Generated networks.", lower_bound=8)
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of training.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the numbers to this file.")


def main(argv) -> None:
    """Trains the networks, audits them, and prints what it took."""
    del argv
    common.setup_jax()
    import jaxweights as jw
    from jaxweights import costs

    runs, heldout, epochs = _TRAIN.value, _HELDOUT.value, _EPOCHS.value
    zoo = jw.train_zoo("digits", hidden=(16,), runs=runs, heldout=heldout, epochs=epochs, seed=0)
    samples = jw.sample(jw.fit("pca_gaussian", zoo.train, seed=0), _GENERATED.value, seed=1)
    before, start = costs.host_peak(), time.perf_counter()
    result = jw.audit(zoo.train, zoo.heldout, samples)
    found = {
        "train": len(zoo.train),
        "heldout": len(zoo.heldout),
        "generated": len(samples),
        "series": len(result.to_json()["series"]),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib_before": round(before / 2**30, 2),
        "peak_gib": round(costs.host_peak() / 2**30, 2),
    }
    print(json.dumps(found, indent=1))
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    common.run_main(main)
