"""Studies of generators that encode networks and decode latents.

How well they reconstruct networks that they have and have not seen, what their latents know (linear probes), whether
they see through the symmetries of weights, where their samplers draw, and the evaluation of the memorization paper
(Zeng et al. 2025, arXiv 2506.07998) as published, whose reference are reconstructions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import data, parallel, population
from jaxweights.auditing import probes, published, statistics, symmetry
from jaxweights.auditing.distances import euclidean
from jaxweights.evaluation import evaluate
from jaxweights.generators import Autoencoding
from jaxweights.progress import Progress
from jaxweights.settings import Settings, setting
from jaxweights.studies.base import Estimation, Findings, Rowwise, Subject


@dataclasses.dataclass(frozen=True)
class AutoencoderSettings(Settings):
    """Settings of the study of autoencoders.

    Attributes:
      symmetry_networks: number of training networks whose transformed copies are reconstructed.
      rescaling_log_std: standard deviation of the logarithms of the scales that ReLU networks' hidden units get.
      probe_images: number of training images that the generalization gap is measured on.
      published_top: share of the best networks that noise is added to in the published protocol.
      published_noise: standard deviations of that noise, in weight units.
    """

    SECTION: ClassVar[str] = "studies.autoencoder"

    symmetry_networks: int = setting(128, at_least=2, at_most=100_000)
    rescaling_log_std: float = setting(0.5, at_least=0)
    probe_images: int = setting(5000, at_least=1)
    published_top: float = setting(published.TOP, above=0, at_most=1)
    published_noise: tuple[float, ...] = setting(published.AMPLITUDES, at_least=0)


class Autoencoder:
    """A trained generator as functions on the host.

    Attributes:
      mesh: networks are sharded over its devices.
      encode: weights `[n, P]` to latents `[n, L]`, float32.
      decode: latents `[n, L]` to weights `[n, P]`, float32.
    """

    def __init__(self, generator: Autoencoding, state: Mapping[str, Any], mesh: Mesh):
        state = jax.device_put(state, parallel.replicated(mesh))
        self.mesh = mesh
        self.encode = Rowwise(generator.encode, state, mesh)
        self.decode = Rowwise(generator.decode, state, mesh)

    def reconstruct(self, weights: np.ndarray) -> np.ndarray:
        """Weights `[n, P]`, encoded and decoded."""
        return self.decode(self.encode(weights))


def run(subject: Subject, settings: AutoencoderSettings, estimation: Estimation) -> Findings:
    """Runs all studies of one trained autoencoder.

    Args:
      subject: an `Autoencoding` generator.
      settings: settings of the study.
      estimation: how numbers are estimated.

    Returns:
      JSON data (`reconstruction`, `probes`, `symmetry`, `published`, `samplers`), and per-network arrays for the
      figures.
    """
    generator = subject.generator
    autoencoder = Autoencoder(generator, subject.state, estimation.mesh)
    with Progress(5, f"studies of {generator.name}", "studies") as bar:
        return _run(subject, autoencoder, settings, estimation, bar)


def _run(
    subject: Subject, autoencoder: Autoencoder, settings: AutoencoderSettings, estimation: Estimation, bar: Progress
) -> Findings:
    resamples, seed, mesh = estimation.resamples, estimation.seed, estimation.mesh
    images, labels = subject.test_images, subject.dataset.test_labels
    rng = np.random.default_rng([seed, 20_000])
    latents = {
        "train": autoencoder.encode(subject.train.weights),
        "heldout": autoencoder.encode(subject.heldout.weights),
    }
    decoded = {split: autoencoder.decode(z) for split, z in latents.items()}
    evaluated = {split: evaluate(subject.net, w, images, labels, mesh) for split, w in decoded.items()}
    reconstruction = {
        split: _reconstruction(networks, decoded[split], evaluated[split].accuracy, subject.train, resamples, rng)
        for split, networks in (("train", subject.train), ("heldout", subject.heldout))
    }
    bar.update(1, "reconstruction")
    last = subject.train.select(np.flatnonzero(population.last_checkpoints(subject.train.records)))
    chosen = rng.permutation(len(last))[: settings.symmetry_networks]
    symmetry_metrics, symmetry_arrays = symmetry.study(
        subject.net,
        last.weights[np.sort(chosen)],
        autoencoder.reconstruct,
        images,
        labels,
        mesh,
        jax.random.fold_in(jax.random.key(seed), 4),
        log_std=settings.rescaling_log_std,
        resamples=resamples,
        rng=rng,
    )
    bar.update(2, "symmetry")
    published_metrics, published_arrays = published.run(
        subject.net,
        images,
        labels,
        mesh,
        reconstructed=dataclasses.replace(subject.train, weights=decoded["train"]),
        evaluated=evaluated["train"],
        generated=subject.generated,
        noise=settings.published_noise,
        top=settings.published_top,
        faithful=True,
        key=jax.random.fold_in(jax.random.key(seed), 5),
        resamples=resamples,
        rng=rng,
    )
    bar.update(3, "published protocol")
    probed = _probes(subject, latents, settings.probe_images, mesh)
    bar.update(4, "probes")
    metrics = {
        "reconstruction": reconstruction,
        "probes": probed,
        "symmetry": symmetry_metrics,
        "published": published_metrics,
        "samplers": _samplers(subject, latents["train"], resamples, rng, mesh),
    }
    bar.update(5, "samplers")
    return metrics, {**symmetry_arrays, **published_arrays}


def _reconstruction(networks, decoded, accuracy, train, resamples, rng) -> dict[str, Any]:
    """Explained share of the weights, overall and by layer, and what the reconstructed networks can do.

    R^2 of a layer is 1 - squared error / squared error of the training set's mean vector; overall, every layer's errors
    count in units of its own variance, as in the loss of Hyper-Representations.
    """
    layers: dict[str, list[slice]] = {}
    for leaf, span in networks.spec.spans():
        layers.setdefault(leaf.name.rpartition("/")[0], []).append(span)
    mean = train.weights.mean(axis=0, dtype=np.float64)
    by_layer, errors, baselines = {}, [], []
    for name, spans in layers.items():
        true, seen, found, centre = (
            np.concatenate([np.asarray(w[..., s], np.float64) for s in spans], axis=-1)
            for w in (networks.weights, train.weights, decoded, mean)
        )
        scale = max(seen.var(), 1e-8)
        errors.append(np.square(true - found).sum() / scale)
        baselines.append(np.square(true - centre).sum() / scale)
        by_layer[name] = float(1 - errors[-1] / max(baselines[-1], 1e-12))
    distance = np.linalg.norm(np.asarray(networks.weights, np.float64) - decoded, axis=1)

    def mean_of(values):
        return statistics.bootstrap_mean(values, resamples, rng).to_json("mean")

    return {
        "r2": float(1 - sum(errors) / max(sum(baselines), 1e-12)),
        "r2_by_layer": by_layer,
        "accuracy": mean_of(accuracy),
        "original_accuracy": mean_of(networks.records["accuracy"]),
        "distance": mean_of(distance),
    }


def _probes(subject: Subject, latents: Mapping[str, np.ndarray], num_images: int, mesh: Mesh) -> dict[str, Any]:
    """What a ridge regression reads from latents, and from the statistics of the weights."""
    dataset = subject.dataset
    images = np.asarray(data.standardise(dataset.train_images[:num_images], dataset.scale, dataset.shift))
    targets: dict[str, dict[str, np.ndarray]] = {"accuracy": {}, "epoch": {}, "generalization gap": {}}
    statistics_of = {}
    for split, networks in (("train", subject.train), ("heldout", subject.heldout)):
        seen = evaluate(subject.net, networks.weights, images, dataset.train_labels[:num_images], mesh).accuracy
        targets["accuracy"][split] = networks.records["accuracy"]
        targets["epoch"][split] = networks.records["step"] / subject.steps_per_epoch
        targets["generalization gap"][split] = seen - networks.records["accuracy"]
        statistics_of[split] = probes.weight_statistics(networks.weights, networks.spec)
    found = {}
    for name, values in targets.items():
        if np.ptp(values["train"]) == 0 or np.ptp(values["heldout"]) == 0:
            continue  # nothing to predict: one checkpoint per run has one epoch
        found[name] = {}
        for kind, features in (("latents", latents), ("statistics", statistics_of)):
            fitted = probes.probe(
                features["train"],
                values["train"],
                features["heldout"],
                values["heldout"],
                subject.train.records["run"],
            )
            found[name][kind] = {"train": fitted["r2_train"], "heldout": fitted["r2_test"]}
    return {"n_train": len(subject.train), "n_heldout": len(subject.heldout), "targets": found}


def _samplers(subject: Subject, latents: np.ndarray, resamples: int, rng, mesh: Mesh) -> dict[str, Any]:
    """Where every way of sampling draws its latents: how far from the nearest training latent, and whose that is."""
    found = {}
    for name, (generator, inputs) in subject.samplers.items():
        nearest = euclidean.nearest(inputs["latents"], latents, 1, mesh=mesh)
        parents = np.asarray(inputs["parents"])
        own = statistics.share(nearest.indices[:, 0] == parents).to_json() if (parents >= 0).all() else None
        found[name] = {
            **generator.sampling,
            "nearest_latent": statistics.bootstrap_mean(nearest.distances[:, 0], resamples, rng).to_json("mean"),
            "own_parent_share": own,
        }
    return found
