"""The whole experiment in one workdir, stage by stage: zoo, generators, samples, audit, report.

Every stage reads what the stages before left in the workdir and does nothing when its own result is there already, so
running again resumes. The layout of a workdir:

    config.json   metrics.json   metrics.jsonl   timing.json   report.html
    base/                   the network that all runs continue from, where the config has one
    zoo/                    population of all runs' snapshots
    generators/<name>/      checkpoints of a learned generator
    samples/<name>/         population of generated networks
    audit/<series>.npz      per-network measurements
    studies/<name>.*        what was found out about a trained generator: a weight autoencoder or a prompted one
    figures/                PNG and SVG files
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxweights import (
    auditing,
    data,
    files,
    generators,
    nets,
    parallel,
    population,
    provenance,
    report,
    store,
    studies,
    zoo,
)
from jaxweights.errors import UserError
from jaxweights.evaluate import Evaluator
from jaxweights.training import train_generator

# The positive controls of every audit: an audit that does not flag them is worth nothing.
CONTROLS: dict[str, dict[str, Any]] = {
    "copy": {"kind": "copy"},
    "noised_copy": {"kind": "noise", "sigma": 0.05, "relative": True},
    "permuted_copy": {"kind": "copy", "permute": True},
}
SHAPES = "shapes"
"""The study of all series that are neural fields of shapes, beside those of single generators."""
MIN_HELDOUT = 8  # the negative control is half of them, judged against the other half


class Experiment:
    """An experiment bound to a workdir.

    Args:
      config: plain nested dict, see `configs/base.py`.
      workdir: folder of everything it makes.
      data_dir: where data sets other than the embedded digits are, or None for the default of `data.load`.

    Raises:
      UserError: an unwritable workdir, a workdir of another config (naming the keys that differ), or an impossible
        config.
    """

    def __init__(self, config: Mapping[str, Any], workdir: pathlib.Path | str, data_dir: str | None = None):
        check(config)
        self.config = json.loads(json.dumps(config))
        self.workdir = files.make_dir(workdir)
        self.data_dir = data_dir
        self._claim()

    def _claim(self) -> None:
        path = self.workdir / "config.json"
        if not path.exists():
            files.write_json(path, self.config)
            return
        old = files.read_json(
            path, "config of this workdir", "Remove the workdir or choose another one with --workdir."
        )
        changed = provenance.differences(old, self.config)
        if changed:
            raise UserError(
                f"The workdir {self.workdir} holds an experiment with another config; it differs in "
                f"{'; '.join(changed)}. "
                "Choose another --workdir, or give the old values back."
            )

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """All devices."""
        return parallel.make_mesh()

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """The images and labels, the initial states of episodes, or the signals that fields are fitted to."""
        settings = {k: v for k, v in self.config["data"].items() if v}
        signals, net, runs = settings.pop("signals", {}), self.config["net"], self.config["zoo"]
        if net["name"] != "field":
            return data.load(**settings, data_dir=self.data_dir)
        kind, count = net.get("signal", "occupancy"), runs["num_runs"] + runs["num_heldout"]
        return data.load_signals(**settings, data_dir=self.data_dir, kind=kind, runs=count, signals=signals)

    @functools.cached_property
    def net(self) -> nets.TaskNet:
        """The task network; where there is a base, the part of it that runs train, with the rest frozen."""
        whole = nets.build(self.config["net"], self.dataset.train_images.shape[1:], self.dataset.num_classes)
        if not zoo.has_base(self.config["zoo"]):
            return whole
        with self._timed("base"):
            base = zoo.train_base(
                self.workdir / "base",
                whole,
                self.config["zoo"]["base"],
                self.dataset,
                self.mesh,
                seed=self.config["seed"],
                provenance=self.provenance("base"),
            )
        return nets.partial(whole, base, self.config["zoo"]["subset"])

    @functools.cached_property
    def test_images(self) -> np.ndarray:
        """Standardised test images `[T, H, W, C]` float32, initial states `[T, 4]`, or points `[T, d]`."""
        return np.asarray(data.standardise(self.dataset.test_images, self.dataset.scale, self.dataset.shift))

    @functools.cached_property
    def evaluate(self) -> Evaluator:
        """Accuracy, loss and error masks of networks on the test set."""
        return Evaluator(self.net, self.test_images, self.dataset.test_labels, self.mesh)

    def key(self, purpose: int) -> jax.Array:
        """The PRNG key of a stage; all derive from `config.seed`."""
        return jax.random.fold_in(jax.random.key(self.config["seed"]), purpose)

    def provenance(self, stage: str) -> dict[str, Any]:
        """What is kept with every population."""
        return {"stage": stage, "config": self.config, "data": self.dataset.source, "versions": provenance.versions()}

    # -- stages
    # ----------------------------------------------------------------------------------------------------------

    def zoo(self) -> store.PopulationStore:
        """Trains the zoo, or imports it from a file."""
        settings, path = self.config["zoo"], self.workdir / "zoo"
        if settings["import_npz"]:
            return self._imported_zoo(path)
        recipe = zoo.Recipe.from_config(settings, self.dataset.num_examples)
        net = self.net  # trains the base, which has a time of its own
        if (path / store.INDEX).exists():
            self._check_origin(store.PopulationStore.open(path, drop_missing=True))
        with self._timed("zoo"):
            return zoo.train_zoo(
                path,
                net,
                recipe,
                self.dataset,
                self.mesh,
                seed=self.config["seed"],
                num_runs=settings["num_runs"],
                num_heldout=settings["num_heldout"],
                provenance=self.provenance("zoo"),
                chunk_size=settings["chunk_size"],
                lanes=settings["lanes"],
                evaluate=self.evaluate,
            )

    def _imported_zoo(self, path: pathlib.Path) -> store.PopulationStore:
        if (path / store.INDEX).exists():
            opened = store.PopulationStore.open(path)
            if opened.complete:
                return opened
        settings = self.config["zoo"]
        imported = population.load_npz(settings["import_npz"], self.net.spec)
        records = dict(imported.records)
        if not (records["run"] >= 0).all():
            records["run"] = np.arange(len(imported))
        if not (records["split"] == population.HELDOUT).any():
            runs = np.unique(records["run"])
            heldout = np.isin(records["run"], runs[len(runs) - settings["num_heldout"] :])
            records["split"] = np.where(heldout, population.HELDOUT, population.TRAIN)
        with self._timed("zoo"):
            result = self.evaluate(imported.weights)
            records |= {"accuracy": result.accuracy, "loss": result.loss, "transform": "imported"}
            opened = (
                store.PopulationStore.open(path)
                if (path / store.INDEX).exists()
                else store.PopulationStore.create(path, self.net.spec, self.provenance("zoo"))
            )
            if not len(opened):
                opened.append(0, population.Population.create(imported.weights, self.net.spec, **records))
            opened.finish()
        return opened

    def _open_zoo(self) -> store.PopulationStore:
        opened = store.PopulationStore.open(self.workdir / "zoo")
        if not opened.complete:
            raise UserError(
                f"The zoo in {self.workdir} is not complete. Run launch.train_zoo (or launch.run) again; it resumes."
            )
        self._check_origin(opened)
        return opened

    def _check_origin(self, opened: store.PopulationStore) -> None:
        """Refuses a zoo that was put here from another experiment."""
        parts = ("seed", "data", "net", "zoo")
        made = opened.provenance.get("config", {})
        changed = provenance.differences({k: made.get(k) for k in parts}, {k: self.config[k] for k in parts})
        if opened.spec != self.net.spec:
            changed.append(f"{opened.spec.num_params} -> {self.net.spec.num_params} parameters per network")
        if changed:
            raise UserError(
                f"The zoo in {opened.path} was made by another config: {'; '.join(changed)}. Remove that folder and "
                "run again, or choose "
                "another --workdir."
            )

    def training_rows(self, opened: store.PopulationStore) -> np.ndarray:
        """Row numbers of the networks that generators are trained on and the audit compares with.

        Raises:
          UserError: no run of the training split, or too few of the held-out split, is left.
        """
        records = opened.records
        chosen = np.ones(len(opened), bool)
        if self.config["zoo"]["use"] == "last":
            chosen = population.last_checkpoints(records)
        rows = np.flatnonzero(chosen & (records["split"] == population.TRAIN))
        if not len(rows):
            raise UserError("The training split of the zoo is empty: every run diverged. Lower zoo.learning_rate.")
        return rows

    def heldout_rows(self, opened: store.PopulationStore) -> np.ndarray:
        """Row numbers of one checkpoint of every held-out run: the last, or, where training networks are consecutive
        checkpoints, one at a step like theirs."""
        records = opened.records
        heldout = records["split"] == population.HELDOUT
        if self.config["zoo"]["snapshot_range"]:
            rows = np.flatnonzero(heldout)
            kept = {name: records[name][rows] for name in ("run", "step")}
            steps = records["step"][self.training_rows(opened)]
            rows = rows[auditing.at_training_steps(kept, steps, self.config["seed"])]
        else:
            rows = np.flatnonzero(population.last_checkpoints(records) & heldout)
        if len(rows) < MIN_HELDOUT:
            raise UserError(
                f"The zoo has {len(rows)} held-out runs, but an audit needs at least {MIN_HELDOUT}: without runs "
                "that no generator "
                "has seen there is nothing to compare a distance with. Raise zoo.num_heldout."
            )
        return rows

    def _starts(self, opened: store.PopulationStore) -> population.Population:
        """The first kept checkpoint of every held-out run, in the order of the runs."""
        heldout = np.flatnonzero(opened.records["split"] == population.HELDOUT)
        run, step = opened.records["run"][heldout], opened.records["step"][heldout]
        order = np.lexsort((step, run))
        first = np.unique(run[order], return_index=True)[1]
        return opened.read(heldout[order][first])

    def _checkpoints(self, opened: store.PopulationStore, split: str, generator) -> np.ndarray:
        """Row numbers of a split's checkpoints, as many per run as that generator is trained on."""
        records = opened.records
        chosen = records["split"] == split
        if self.config["zoo"]["use"] == "last" and not generator.TRAJECTORIES:
            chosen &= population.last_checkpoints(records)
        return np.flatnonzero(chosen)

    @functools.cached_property
    def generators(self) -> dict[str, tuple[Any, str]]:
        """Every generator and control by name, with the name of the one whose training it uses; learned ones first,
        then baselines, then controls."""
        resolved = generators.resolve(self.config["generators"])
        learned = {k: v for k, v in resolved.items() if generators.is_learned(v[0])}
        rest = {k: v for k, v in resolved.items() if k not in learned}
        return {**learned, **rest, **generators.resolve(CONTROLS)}

    def train_generators(self) -> dict[str, Any]:
        """Trains every learned generator and fits every closed-form one; returns their states by name."""
        opened = self._open_zoo()
        training = opened.read(self.training_rows(opened))
        trajectories = np.flatnonzero(opened.records["split"] == population.TRAIN)
        states = {}
        for i, (name, (generator, trained)) in enumerate(self.generators.items()):
            if name != trained:
                continue
            if generators.is_learned(generator):
                with self._timed(f"train {name}"), open(self.workdir / "metrics.jsonl", "a") as log:

                    def write(row, log=log):
                        log.write(json.dumps(row) + "\n")
                        log.flush()

                    states[name] = train_generator(
                        generator,
                        opened.read(trajectories) if generator.TRAJECTORIES else training,
                        self.mesh,
                        key=jax.random.fold_in(self.key(1), i),
                        path=self.workdir / "generators" / name,
                        log=write,
                    )
            else:
                states[name] = generator.fit(training)
        return states

    def sample(self) -> dict[str, store.PopulationStore]:
        """Draws `num_samples` networks from every generator and evaluates them."""
        out = {}
        missing = [n for n in self.generators if not self._sampled(n)]
        states = self.train_generators() if missing else {}
        for name, (generator, trained) in self.generators.items():
            path = self.workdir / "samples" / name
            if name in missing:
                with self._timed(f"sample {name}"):
                    self._sample_one(generator, states[trained], path)
            out[name] = store.PopulationStore.open(path)
        return out

    def _sampled(self, name: str) -> bool:
        path = self.workdir / "samples" / name
        return (path / store.INDEX).exists() and store.PopulationStore.open(path, drop_missing=True).complete

    def _sample_keys(self, name: str) -> jax.Array:
        number = list(self.generators).index(name)
        return jax.random.split(jax.random.fold_in(self.key(2), number), self.config["num_samples"])

    def _sample_one(self, generator, state, path: pathlib.Path) -> None:
        opened = self._open_zoo()
        rows = self.training_rows(opened)
        keys = self._sample_keys(generator.name)

        def measure(weights):
            result = self.evaluate(weights)
            return population.Population.create(weights, self.net.spec, accuracy=result.accuracy, loss=result.loss)

        samples = generators.draw(generator, state, keys, self._starts(opened), measure, self.mesh)
        weights, parents = np.asarray(samples.weights), np.asarray(samples.parents)
        finite = np.isfinite(weights).all(axis=1)
        if not finite.all():
            raise UserError(
                f"{(~finite).sum()} of {len(weights)} networks sampled from {generator.name!r} have non-finite "
                "weights: its training went "
                f"wrong. Look at {self.workdir / 'metrics.jsonl'}, change its settings, and use a new workdir."
            )
        source = opened.view(rows)
        derived = source.derive(weights, parents, generator.name)
        result = self.evaluate(weights)
        parents = np.where(parents >= 0, rows[parents], -1)  # rows of the zoo's store, not of the training subset
        records = {**derived.records, "parent": parents, "accuracy": result.accuracy, "loss": result.loss}
        if (path / store.INDEX).exists():
            target = store.PopulationStore.open(path, drop_missing=True)
        else:
            target = store.PopulationStore.create(path, self.net.spec, self.provenance(f"sample {generator.name}"))
        if 0 not in target.chunk_ids:
            target.append(0, population.Population(derived.weights, self.net.spec, records))
        target.finish()

    def audit(self) -> dict[str, Any]:
        """Measures every series, writes `audit/*.npz` and `metrics.json`, and returns the metrics."""
        samples = self.sample_stores()
        opened = self._open_zoo()
        train_rows, heldout_rows = self.training_rows(opened), self.heldout_rows(opened)
        with self._timed("audit"):
            subject = auditing.Subject(
                net=self.net,
                images=self.test_images,
                labels=self.dataset.test_labels,
                train=opened.view(train_rows),
                heldout=opened.view(heldout_rows),
                lineages=opened.view(np.flatnonzero(opened.records["split"] == population.HELDOUT)),
                generated={name: s.read() for name, s in samples.items()},
                controls=tuple(CONTROLS),
                evaluate=self.evaluate,
            )
            metrics = auditing.run(
                subject, self.config["audit"], self.config["seed"], self.mesh, self.workdir / "audit"
            )
        found = self.studies(opened, samples)
        if found:
            metrics["studies"] = found
        metrics |= {"zoo": self._zoo_summary(opened), "timing": self._timing(), "versions": provenance.versions()}
        files.write_json(self.workdir / "metrics.json", metrics)
        return metrics

    def studies(self, opened: store.PopulationStore, samples: Mapping[str, store.PopulationStore]) -> dict[str, Any]:
        """Studies every trained generator that there is a study of, and the shapes of all series; returns
        `studies/<name>.json` by name."""
        out: dict[str, Any] = {}
        chosen = {n: g for n, (g, trained) in self.generators.items() if n == trained and studies.exist_for(g)}
        missing = [n for n in chosen if not (self.workdir / "studies" / f"{n}.json").exists()]
        states = self.train_generators() if missing else {}
        for name, generator in chosen.items():
            path = files.make_dir(self.workdir / "studies") / f"{name}.json"
            if name in missing:
                ways = {n: g for n, (g, trained) in self.generators.items() if trained == name}
                recipe = zoo.Recipe.from_config(self.config["zoo"], self.dataset.num_examples)
                # Studies of trajectories look at few of their networks.
                read = opened.view if generator.TRAJECTORIES else opened.read
                subject = studies.Subject(
                    net=self.net,
                    dataset=self.dataset,
                    train=read(self._checkpoints(opened, population.TRAIN, generator)),
                    heldout=read(self._checkpoints(opened, population.HELDOUT, generator)),
                    steps_per_epoch=self.dataset.num_examples // recipe.batch_size,
                    generated={n: samples[n].read() for n in ways},
                    samplers={
                        n: (g, g.inputs(states[name], self._sample_keys(n), self._starts(opened)))
                        for n, g in ways.items()
                    },
                )
                with self._timed(f"studies {name}"):
                    metrics, arrays = studies.run(
                        subject,
                        generator,
                        states[name],
                        self.config["studies"],
                        self.config["audit"]["bootstrap"],
                        self.config["seed"],
                        self.mesh,
                    )
                _keep_study(path, metrics, arrays)
            out[name] = files.read_json(path, "table of studies", "Remove it and run again.")
        if studies.shapes.exist_for(self.net, self.dataset):
            out[SHAPES] = self._study_of_shapes(opened, samples)
        return out

    def _study_of_shapes(self, opened: store.PopulationStore, samples) -> dict[str, Any]:
        path = files.make_dir(self.workdir / "studies") / f"{SHAPES}.json"
        if not path.exists():
            learned = {n: g for n, (g, _) in self.generators.items() if generators.is_learned(g)}
            copies = {n: g.augment for n, g in learned.items() if hasattr(g, "augment")}
            with self._timed("studies shapes"):
                found = studies.shapes.run(
                    self.net,
                    self.dataset,
                    {name: s.read() for name, s in samples.items() if name not in CONTROLS},
                    opened.read(self.training_rows(opened)),
                    opened.read(self.heldout_rows(opened)),
                    self.config["studies"],
                    self.config["audit"]["bootstrap"],
                    self.config["seed"],
                    self.mesh,
                    shown=tuple(learned),
                    augmented=copies if any(k > 1 for k in copies.values()) else {},
                )
            _keep_study(path, *found)
        return files.read_json(path, "table of studies", "Remove it and run again.")

    def sample_stores(self) -> dict[str, store.PopulationStore]:
        """The samples of every generator, complete.

        Raises:
          UserError: some are missing; says what to run.
        """
        missing = [n for n in self.generators if not self._sampled(n)]
        if missing:
            raise UserError(
                f"The workdir {self.workdir} has no samples of {', '.join(missing)}. Run launch.sample (or "
                "launch.run) first."
            )
        return {n: store.PopulationStore.open(self.workdir / "samples" / n) for n in self.generators}

    def report(self) -> pathlib.Path:
        """Draws the figures and writes `report.html` from what the other stages left."""
        cure = "Run launch.audit (or launch.run) first."
        metrics = files.read_json(self.workdir / "metrics.json", "table of audit results", cure)
        opened = self._open_zoo()
        with self._timed("report"):
            return report.write(
                self.workdir,
                metrics=metrics,
                config=self.config,
                net=self.net,
                dataset=self.dataset,
                train=opened.view(self.training_rows(opened)),
                samples={n: s.read() for n, s in self.sample_stores().items()},
                heldout=opened.view(self.heldout_rows(opened)),
                lineages=opened.view(np.flatnonzero(opened.records["split"] == population.HELDOUT)),
                mesh=self.mesh,
            )

    def run(self) -> pathlib.Path:
        """All stages; returns the path of the report."""
        self.dataset  # noqa: B018  (a missing data set fails here, before anything is trained)
        self.zoo()
        self.sample()
        self.audit()
        return self.report()

    # -- bookkeeping
    # -----------------------------------------------------------------------------------------------------

    def _zoo_summary(self, opened: store.PopulationStore) -> dict[str, Any]:
        records = opened.records
        last = population.last_checkpoints(records)
        runs = {
            s: int(np.sum(last & (records["split"] == s)))
            for s in (population.TRAIN, population.HELDOUT, population.DIVERGED)
        }
        snapshots = len(opened) // max(1, int(last.sum()))
        return {
            "num_runs": int(last.sum()),
            "num_params": self.net.spec.num_params,
            "runs_by_split": runs,
            "diverged_runs": records["run"][last & (records["split"] == population.DIVERGED)].tolist(),
            "snapshots_per_run": snapshots,
            "bytes": 4 * len(opened) * self.net.spec.num_params,
            "data": self.dataset.source,
        }

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of a stage to `timing.json`; what an earlier, interrupted call took stays counted."""
        begin = time.monotonic()
        try:
            yield
        finally:
            timing = self._timing()
            timing[stage] = round(timing.get(stage, 0.0) + time.monotonic() - begin, 3)
            files.write_json(self.workdir / "timing.json", timing)

    def _timing(self) -> dict[str, float]:
        path = self.workdir / "timing.json"
        return files.read_json(path, "table of timings", "Remove it.") if path.exists() else {}


def _keep_study(path: pathlib.Path, metrics: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays first: where the metrics are, the study is done."""
    with files.atomic(path.with_suffix(".npz")) as temporary:
        np.savez(temporary, **arrays)
    files.write_json(path, metrics)


def check(config: Mapping[str, Any]) -> None:
    """Refuses an impossible config before anything is computed.

    Raises:
      UserError: a missing section, a held-out split that is too small, no runs, no samples, or an unknown generator.
    """
    for section in ("seed", "data", "net", "zoo", "generators", "num_samples", "audit", "studies", "report"):
        if section not in config:
            raise UserError(f"The config has no section {section!r}. Start from configs/base.py.")
    settings = config["zoo"]
    if settings["num_runs"] < 1 and not settings["import_npz"]:
        raise UserError(f"zoo.num_runs is {settings['num_runs']}: a zoo needs at least one training run.")
    if settings["num_heldout"] < MIN_HELDOUT:
        raise UserError(
            f"zoo.num_heldout is {settings['num_heldout']}, but an audit needs at least {MIN_HELDOUT} held-out runs: "
            "without runs that "
            "no generator has seen there is nothing to compare a distance with."
        )
    if settings["use"] not in ("last", "all"):
        raise UserError(
            f"Unknown zoo.use {settings['use']!r}; known: last (one checkpoint per run), all (every snapshot)."
        )
    if config["num_samples"] < 1:
        raise UserError(f"num_samples is {config['num_samples']}: an audit needs at least one sample per generator.")
    for name in config["generators"]:
        if name in CONTROLS or name in auditing.RESERVED or name in (SHAPES, studies.shapes.TRAINING_SHAPES):
            raise UserError(
                f"A generator cannot be called {name!r}: the audit uses that name itself. Rename generators.{name}."
            )
    generators.resolve(config["generators"])
    studies.check(config["studies"])
    report.check(config["report"])
