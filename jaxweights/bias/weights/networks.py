"""Collections of networks as the subject of a comparison."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import checks, parallel, population, settings
from jaxweights.bias import ranking
from jaxweights.bias import weights as bias_weights
from jaxweights.bias.classifiers import Classifier
from jaxweights.bias.protocol import Split
from jaxweights.bias.settings import BiasSettings
from jaxweights.bias.subject import Labelled, Sizes, Subject
from jaxweights.bias.weights import Architecture, features
from jaxweights.bias.weights.zoos import Place, Zoo, ZooSource, plan, read
from jaxweights.errors import UserError

_FIT, _APPLY = 0, 1  # purposes of a transformation's key


class Networks(Subject):
    """Collections of networks of one architecture.

    Args:
      options: the section `bias` of a config.
      sections: its sections `task`, `data`, `net` and `zoo`, which collections differ from.
      seed: random seed.
      data_dir: folder of data sets.
      folder: folder of the zoos that are trained.
      mesh: devices; None for all.

    Raises:
      UserError: settings that cannot be used.
    """

    KIND: ClassVar[str] = "weights"

    def __init__(
        self,
        options: BiasSettings,
        sections: Mapping[str, Any],
        seed: int,
        data_dir: str | None,
        folder: pathlib.Path,
        mesh: Mesh | None = None,
    ):
        self._options, self._seed = options, seed
        self._place = Place(sections, seed, folder, data_dir, parallel.resolve(mesh))
        self._made = chosen_transformations(options)
        self._transfers = transfers_of(options.sets)
        sets = {name: values for name, values in options.sets.items() if name not in self._transfers}
        self._sources = {name: sources_of(name, values) for name, values in sets.items()}
        for name, source in ((name, one) for own in self._sources.values() for name, one in own.items()):
            if not source.path:
                plan(name, source, sections)
        self.classifier = options.chosen_classifier()
        self.sizes = Sizes(options.repeats, options.controls, options.num_train, options.num_validation, seed)
        self.transformations = {
            k: {"kind": t.KIND, "keeps": t.KEEPS, **settings.plain(t)} for k, t in self._made.items()
        }
        if self.classifier.NETWORKS:
            for name, made in self._made.items():
                if not made.NETWORK:
                    raise UserError(
                        f"The classifier {self.classifier.KIND} takes networks, and bias.transformations.{name} makes "
                        "something else of them. Leave it out, or set bias.classifier.kind to mlp or linear."
                    )

    @functools.cached_property
    def _zoos(self) -> dict[str, dict[str, Zoo]]:
        """The collections of every set that has some of its own."""
        found = {of: {k: read(k, s, self._place) for k, s in own.items()} for of, own in self._sources.items()}
        every = [(f"{of}.{name}", zoo.networks) for of, zoos in found.items() for name, zoo in zoos.items()]
        first, spec = every[0][0], every[0][1].spec
        for name, networks in every:
            if networks.spec != spec:
                raise UserError(
                    f"The networks of {name} have {networks.spec.num_params:,} parameters, and those of {first} "
                    f"{spec.num_params:,}, or other layers. Only networks of one architecture can be compared."
                )
            population.check_finite(networks.weights, f"The collection {name}")
        return found

    @property
    def source_classifier(self) -> Classifier:
        return self.classifier.of_spec(self._of.spec)

    @functools.cached_property
    def _of(self) -> Architecture:
        zoos = [zoo for found in self._zoos.values() for zoo in found.values()]
        net = next((zoo.net for zoo in zoos if zoo.net is not None), None)
        return Architecture(zoos[0].networks.spec, net)

    @functools.cached_property
    def _sets(self) -> dict[str, Labelled]:
        found = {}
        for of in sorted(self._options.sets, key=lambda name: (name != self._options.main, name)):
            if of in self._transfers:
                learned, asked = self._transfers[of]
                found[of] = _transferred(_labelled(self._zoos[learned]), _labelled(self._zoos[asked]), learned, asked)
            else:
                found[of] = _labelled(self._zoos[of])
        return found

    def check(self) -> None:
        """See `Subject.check`."""
        super().check()
        for made in self._made.values():
            made.check(self._of)

    def _parts(self, of: str) -> list[Zoo]:
        """The collections of a set in the order of its examples: those to learn from come before those asked about."""
        return [zoo for name in self._transfers.get(of, (of,)) for zoo in self._zoos[name].values()]

    def sets(self) -> Mapping[str, Labelled]:
        return self._sets

    def transformed(self, of: str, name: str, rows: np.ndarray, unseen: np.ndarray, mesh: Mesh) -> np.ndarray:
        made, weights = self._made[name], self._weights(of)
        key = jax.random.key(self._seed)
        free = np.setdiff1d(np.arange(len(weights)), unseen)
        made.check(self._of)
        state = made.fit(self._of, weights[free], jax.random.fold_in(key, _FIT))
        key = jax.random.fold_in(key, _APPLY)
        return bias_weights.transform(made, weights[rows], self._of, key, state=state, mesh=mesh)

    @functools.cache  # noqa: B019  (lives as long as the study)
    def _weights(self, of: str) -> np.ndarray:
        return np.concatenate([zoo.networks.weights for zoo in self._parts(of)])

    def named(self, of: str, split: Split, mesh: Mesh) -> dict[str, Any]:
        """Which named features tell the collections apart, see `ranking.rank`."""
        examples = self._sets[of]
        parts = [self._features(zoo, mesh) for zoo in self._parts(of)]
        common = [name for name in parts[0].names if all(name in part.names for part in parts)]
        values = [part.values[:, [part.names.index(name) for name in common]] for part in parts]
        return ranking.rank(ranking.Table(common, np.concatenate(values), examples.groups), split, list(examples.names))

    def _features(self, zoo: Zoo, mesh: Mesh) -> features.Named:
        found = features.of_weights(zoo.networks.weights, self._of, mesh).beside(features.of_training(zoo.networks))
        if zoo.net is None or zoo.test is None:
            return found
        return found.beside(features.of_function(zoo.net, zoo.networks.weights, zoo.test, zoo.train, mesh))


def chosen_transformations(options: BiasSettings) -> dict[str, bias_weights.WeightTransformation]:
    """The transformations of a config by name, in the order of the registry."""
    known = list(bias_weights.TRANSFORMATIONS)
    made = {k: bias_weights.make(v, f"bias.transformations.{k}") for k, v in options.transformations.items()}
    return dict(sorted(made.items(), key=lambda item: (known.index(item[1].KIND), item[0])))


def sources_of(of: str, values: Mapping[str, Any]) -> dict[str, ZooSource]:
    """The collections of a set, by name.

    Raises:
      UserError: fewer than two, or unknown settings.
    """
    section = f"bias.sets.{of}"
    settings.refuse_unknown(values, ["collections"], section)
    found: Any = values.get("collections", {})
    if len(found) < 2:
        raise UserError(f"{section} compares {len(found)} collections; give two or more in {section}.collections.")
    return {k: settings.make(ZooSource, v, f"{section}.collections.{k}") for k, v in found.items()}


def transfers_of(sets: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The sets without collections of their own: the names of the sets that their classifiers learn from, and are asked
    about.

    Args:
      sets: `bias.sets`.

    Raises:
      UserError: other sets than those that have collections, or sets of other collections.
    """
    found = {}
    for name, values in sets.items():
        if not {"learn", "ask"} & set(values):
            continue
        section = f"bias.sets.{name}"
        settings.refuse_unknown(values, ["learn", "ask"], section)
        pair = values.get("learn", ""), values.get("ask", "")
        known = [other for other, own in sets.items() if "collections" in own]
        for key, other in zip(("learn", "ask"), pair, strict=True):
            if other not in known:
                hint = checks.suggest(other, known)
                raise UserError(f"{section}.{key} is {other!r}; give the name of a set with collections; {hint}.")
        learned, asked = (list(sets[other]["collections"]) for other in pair)
        if sorted(learned) != sorted(asked):
            raise UserError(
                f"{section} learns from the collections {', '.join(learned)} and asks about {', '.join(asked)}; give "
                "two sets whose collections have the same names."
            )
        found[name] = pair
    return found


def _transferred(learned: Labelled, asked: Labelled, of_learned: str, of_asked: str) -> Labelled:
    """The examples of two sets, of which the second are asked about."""
    names = learned.names
    labels = np.array([names.index(name) for name in asked.names], np.int32)[asked.labels]
    described = {
        name: {
            "examples": int(np.sum(labels == i)),
            "source": f"{name} of the set {of_asked}, told by classifiers that learn from the set {of_learned}",
        }
        for i, name in enumerate(names)
    }
    digest = f"{learned.facts['digest']} {asked.facts['digest']}"
    return Labelled(
        names,
        np.concatenate([learned.labels, labels]),
        np.concatenate([learned.groups, asked.groups]),
        {"collections": described, "notes": [], "digest": digest},
        np.repeat([False, True], [len(learned.labels), len(labels)]),
    )


def _labelled(zoos: Mapping[str, Zoo]) -> Labelled:
    """The networks of a set with their labels."""
    sizes = [len(zoo.networks) for zoo in zoos.values()]
    digest = hashlib.blake2b(digest_size=10)
    for zoo in zoos.values():
        digest.update(np.ascontiguousarray(zoo.networks.weights).data)
    described = {name: {"examples": len(zoo.networks), "source": zoo.source, **zoo.facts} for name, zoo in zoos.items()}
    facts = {"collections": described, "notes": _notes(zoos), "digest": digest.hexdigest()}
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return Labelled(tuple(zoos), labels, np.concatenate([zoo.groups for zoo in zoos.values()]), facts)


def _notes(zoos: Mapping[str, Zoo]) -> list[str]:
    """Networks that are in two collections."""
    seen: dict[bytes, str] = {}
    twice: dict[tuple[str, str], int] = {}
    for name, zoo in zoos.items():
        for row in zoo.networks.weights:
            other = seen.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), name)
            if other != name:
                twice[other, name] = twice.get((other, name), 0) + 1
    return [
        f"{count:,} networks of {name} are networks of {other}, weight by weight, which no classifier can tell apart."
        for (other, name), count in twice.items()
    ]
