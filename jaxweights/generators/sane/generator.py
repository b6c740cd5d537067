"""SANE as a generator: how the autoencoder is trained on windows, and how networks are drawn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import programs
from jaxweights.errors import UserError
from jaxweights.generators import behaviour, canonical, domain
from jaxweights.generators.base import OnHost, Samples, Stage, Training, keys_for, vanishes
from jaxweights.generators.sane import importer, latents, loss, windows
from jaxweights.generators.sane.network import Architecture, Autoencoder
from jaxweights.generators.sane.settings import SaneSettings
from jaxweights.generators.sane.standardisation import Standardisation
from jaxweights.generators.sane.tokens import TokenSequence, tokens_of, vectors_of
from jaxweights.generators.sane.views import ViewSettings, two_views
from jaxweights.generators.state_dict import Checkpoint
from jaxweights.nn import normalization
from jaxweights.nn.contrast import nt_xent
from jaxweights.nn.parameters import initialise
from jaxweights.population import Population, top_rows
from jaxweights.spec import WeightSpec

STAGE = "autoencoder"
_SEQUENCE = "sequence"
# Networks that are encoded, or decoded and tried, together: at most so many, and so many numbers.
_AT_ONCE, _AT_ONCE_NUMBERS = 64, 1 << 24
_ROUND, _PROMPTS = range(2)


@dataclass(frozen=True)
class Sane(SaneSettings):
    """SANE: an autoencoder of windows of tokens, and kernel densities of the latents of tokens."""

    def check(self, training: Training) -> None:
        """Refuses fewer networks than a batch, tables of positions that are too small, and lengths that the published
        code stops on."""
        super().check(training)
        self._check_lengths(self._sequence(training.spec))

    def _check_lengths(self, sequence: TokenSequence) -> None:
        if not sequence.num_tokens:
            self.refuse("norms", "these networks have no other layers: set it to True")
        needed = self._needed(sequence)
        if self.max_positions is not None and any(m < n for m, n in zip(self.max_positions, needed, strict=True)):
            self.refuse("max_positions", f"these networks need {needed}; set it to that at least, or to None")
        self._windows(sequence)

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`."""
        return (2 * training.rows + 12) * training.spec.num_params

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """Brings networks to one order of hidden units, and standardises their layers.

        Args:
          training: rows `[N, P]`, with `examples` where what networks do is looked at.

        Returns:
          `[N, P]` float32 standardised networks, and `sequence` (static), `index` `[tokens, token_size]` int32,
          `positions` `[tokens, 3]`, `slots` `[P]` int32, `symmetry`, `mean` and `std` `[P]` of the standardisation,
          `others` `[P]` (of numbers that have no token: the mean network's), and where there are examples those of
          `behaviour.constants`.

        Raises:
          UserError: examples are needed and absent, or a setting does not go with these networks.
        """
        sequence = self._sequence(training.spec)
        self._check_lengths(sequence)
        _, rows = canonical.Form.of(training, self.order, self.scale)
        found = Standardisation.of(sequence, rows, self.standardise)
        rows = found.apply(rows)
        constants = {
            _SEQUENCE: sequence,
            "index": sequence.index,
            "positions": sequence.positions,
            "slots": sequence.slots,
            "symmetry": sequence.symmetry,
            "mean": found.mean,
            "std": found.std,
            "others": rows.mean(axis=0),
        }
        return rows, constants | self._examples(training) | domain.floors(training, by_tensor=True)

    def _examples(self, training: Population) -> dict[str, Any]:
        if training.examples is not None and behaviour.possible(training.examples.net):
            return behaviour.constants(training.examples, self.examples)
        self._require(self.needs_examples, "candidates and rounds to 1, and top to 1")
        moved = self.statistics == "condition" and not normalization.trainable(training.spec).all()
        self._require(moved, 'statistics to "generate"')
        return {}

    def _require(self, needed: bool, cure: str) -> None:
        if needed:
            raise UserError(
                f"{self.section} looks at what networks do on the training examples of classifiers of images, none of "
                "whose weights are frozen, and these networks have none at hand. Give it a zoo of train_zoo or of an "
                f"experiment, or set {cure}."
            )

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "autoencoder"."""
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=loss.optimizer(self.steps, self.learning_rate, self.weight_decay),
                init=self._init,
                loss=self._loss,
                parameter_shards=self.parameter_shards,
                stacked=("encoder", "decoder"),
            ),
        )

    def encode(self, state: Mapping[str, Any], weights: jax.Array) -> jax.Array:
        """Latents `[n, tokens * latent_dim]` of weights `[n, P]`, whose hidden units keep their order."""
        constants = state["constants"]
        standardised = (weights - constants["mean"][None]) / constants["std"][None]
        return self._encoded(state, standardised)

    def _encoded(self, state: Mapping[str, Any], standardised: jax.Array) -> jax.Array:
        constants = state["constants"]
        tokens = tokens_of(standardised, constants["index"])
        return self._windowed(state, "encode", tokens).reshape(len(standardised), -1)

    def decode(self, state: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        """Weights `[n, P]` of latents `[n, tokens * latent_dim]`."""
        constants = state["constants"]
        z = latents.reshape(len(latents), constants[_SEQUENCE].num_tokens, -1)
        tokens = self._windowed(state, "decode", z)
        found = vectors_of(tokens, constants["slots"], constants["others"])
        found = found * constants["std"][None] + constants["mean"][None]
        return domain.inside(found, constants, self.variances)

    def finish(self, state: Mapping[str, Any], data: np.ndarray) -> dict[str, Any]:
        """Returns `prompts` `[N, tokens * latent_dim]`, the latents of the training networks, on the host."""
        program = _batched(self, "_encoded")
        return {"prompts": OnHost(np.asarray(program(_trained(state), jnp.asarray(data))))}

    def inputs(self, state: Mapping[str, Any], keys: jax.Array, starts: Population) -> dict[str, Any]:
        """Returns `latents` `[n, tokens * latent_dim]`, `parents` `[n]`, rows of the training population or -1, and
        `keys` `[n]`; all samples are looked at together where the best are kept.

        Raises:
          UserError: examples are needed and absent.
        """
        del starts
        if behaviour.NET not in state["constants"]:
            self._require(self.needs_examples, "candidates and rounds to 1, and top to 1")
        count = len(keys)
        prompts, parents = self._prompts(state, keys)
        found = prompts, parents
        for number in range(self.rounds):
            last = number == self.rounds - 1
            found = self._round(state, prompts, parents, self._candidate_keys(keys, number))
            order = np.arange(len(found[0]))
            if self.candidates > 1 or self.rounds > 1:
                accuracy = np.asarray(_batched(self, "_tried")(_trained(state), jnp.asarray(found[0])))
                order = np.argsort(-accuracy, kind="stable")
            if not last:
                kept = order[: max(1, round(self.survivors * len(order)))]
                prompts, parents = found[0][kept], found[1][kept]
            elif self.keep == "best" or self.rounds == 1:
                found = found[0][order], found[1][order]
        return {"latents": found[0][:count], "parents": found[1][:count], "keys": keys}

    def _prompts(self, state: Mapping[str, Any], keys: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        """Latents `[M, tokens * latent_dim]` that the first round starts from, and their rows `[M]`."""
        every = state["prompts"].rows
        if self.prompts == "normal":
            drawn = jax.random.normal(jax.random.fold_in(keys[0], _PROMPTS), every.shape)
            return np.asarray(self.prompt_std * drawn), np.full(len(every), -1, np.int32)
        rows = np.arange(len(every))
        if self.top < 1:
            rows = top_rows(np.asarray(_batched(self, "_tried")(_trained(state), jnp.asarray(every))), self.top)
        return every[rows], rows.astype(np.int32)

    def _candidate_keys(self, keys: jax.Array, number: int) -> jax.Array:
        """Keys `[n * candidates]` of a round."""
        keys = keys_for(keys, _ROUND)
        if number:
            keys = keys_for(keys, number)
        if self.candidates == 1:
            return keys
        return jax.vmap(lambda key: jax.random.split(key, self.candidates))(keys).reshape(-1)

    def _round(
        self, state: Mapping[str, Any], prompts: np.ndarray, parents: np.ndarray, keys: jax.Array
    ) -> tuple[np.ndarray, np.ndarray]:
        tokens = state["constants"][_SEQUENCE].num_tokens
        by_token = prompts.reshape(len(prompts), tokens, -1)
        drawn = latents.draw(by_token, keys, self.density, self.mode, self.bandwidth)
        rows = np.where(drawn.parents >= 0, parents[np.maximum(drawn.parents, 0)], -1).astype(np.int32)
        return drawn.latents.reshape(len(keys), -1), rows

    def _tried(self, state: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        """Accuracy `[n]` on training examples of the networks of latents."""
        weights = self._conditioned(state["constants"], self.decode(state, latents))
        return behaviour.total_accuracy(state["constants"], weights)

    def sample(self, state: Mapping[str, Any], inputs: Mapping[str, jax.Array]) -> Samples:
        """Decodes latents, and moves running statistics by training images where there are any."""
        weights = self._conditioned(state["constants"], self.decode(state, inputs["latents"]))
        return Samples(weights, inputs["parents"])

    def _conditioned(self, constants: Mapping[str, Any], weights: jax.Array) -> jax.Array:
        """Networks `[n, P]` whose running statistics were moved by batches of training images, in their order."""
        if self.statistics != "condition" or behaviour.NET not in constants:
            return weights
        net, images = constants[behaviour.NET].value, constants["inputs"]
        statistics = ~normalization.trainable(net.spec)
        if not statistics.any():
            return weights
        size = min(self.conditioning_batch, len(images))
        starts = jnp.arange(self.conditioning) % (len(images) // size) * size

        def one(vector: jax.Array) -> jax.Array:
            def move(vector: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
                batch = jax.lax.dynamic_slice_in_dim(jnp.asarray(images), start, size)
                _, moved = normalization.apply_in_training(net.module, net.spec.unflatten(vector), net.resized(batch))
                return jnp.where(statistics, net.spec.flatten(moved), vector), None

            return jax.lax.scan(move, vector, starts)[0]

        return jax.lax.map(one, weights)

    def state_from_torch(self, checkpoint: Checkpoint, training: Population) -> dict[str, Any]:
        """The state of a published autoencoder, ready for `sample`.

        Args:
          checkpoint: state dict, see `importer.from_torch`.
          training: networks that it was trained on: order, standardisation and prompts are theirs.

        Raises:
          UserError: the checkpoint or the networks do not fit.
        """
        rows, constants = self.prepare(training)
        sequence = constants[_SEQUENCE]
        params = importer.from_torch(checkpoint, self.architecture(sequence), self.window)
        state = {"constants": constants, STAGE: {"params": params, "model_state": {}}}
        return state | self.finish(state, rows)

    def num_tokens(self, spec: WeightSpec) -> int:
        """Tokens of a whole network."""
        return self._sequence(spec).num_tokens

    def _sequence(self, spec: WeightSpec) -> TokenSequence:
        return TokenSequence(spec, self.token_size, self.norms)

    @staticmethod
    def _needed(sequence: TokenSequence) -> tuple[int, int, int]:
        """Rows that the tables of positions need."""
        token, layer, channel = (int(n) + 1 for n in sequence.positions.max(axis=0))
        return token, layer, channel

    def architecture(self, sequence: TokenSequence) -> Architecture:
        """Sizes of the autoencoder for such networks."""
        rows = self._needed(sequence) if self.max_positions is None else self.max_positions
        sizes = {name: getattr(self, name) for name in ("width", "blocks", "heads", "latent_dim", "dtype", "remat")}
        return Architecture(token_size=sequence.size, max_positions=rows, **sizes)

    def training_window(self, sequence: TokenSequence) -> int:
        """Tokens of a window in training."""
        return min(self.window, sequence.num_tokens)

    def _windows(self, sequence: TokenSequence) -> windows.Windows:
        """How whole networks are encoded and decoded."""
        if self.halo_window is None:
            return windows.whole(sequence.num_tokens)
        given = sequence.num_tokens, self.halo_window, self.halo
        problem = windows.misfit(*given) if self.halo_lengths == "published" else None
        if problem:
            self.refuse("halo_lengths", f'{problem}, where the published code stops; set it to "any"')
        return windows.with_halo(*given)

    def _windowed(self, state: Mapping[str, Any], method: str, x: jax.Array) -> jax.Array:
        """A half of the autoencoder on whole sequences `[n, tokens, ...]`."""
        constants = state["constants"]
        module: Any = Autoencoder(self.architecture(constants[_SEQUENCE]))
        half = functools.partial(module.apply, {"params": state[STAGE]["params"]}, method=method)
        return windows.apply(half, x, jnp.asarray(constants["positions"]), self._windows(constants[_SEQUENCE]))

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        sequence = done["constants"][_SEQUENCE]
        w = self.training_window(sequence)
        x, positions = jnp.zeros((1, w, sequence.size)), jnp.zeros((1, w, 3), jnp.int32)
        return initialise(Autoencoder(self.architecture(sequence)), key, x, positions)["params"], {}

    def _loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: jax.Array,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Contrast and reconstruction of two views of a window, see `Stage.loss`."""
        constants = done["constants"]
        sequence = constants[_SEQUENCE]
        made = ViewSettings(self.training_window(sequence), self.views, self.draw, self.noise, self.target)
        groups = tuple(group.size for group in sequence.spec.groups)
        seen = two_views(
            batch,
            keys,
            constants["index"],
            constants["positions"],
            constants["symmetry"],
            groups,
            made,
            axis_name,
        )
        module: Any = Autoencoder(self.architecture(sequence))
        flat = seen.inputs.reshape(-1, *seen.inputs.shape[2:])
        positions = jnp.concatenate([seen.positions, seen.positions])
        _, outputs, embedded = module.apply({"params": params}, flat, positions)
        outputs = outputs.reshape(seen.targets.shape)
        error = loss.reconstruction(outputs, seen.targets, seen.mask, self.padding, axis_name)
        total, metrics = (1 - self.gamma) * error, {"reconstruction": error}
        if not vanishes(self.gamma):
            first, second = jnp.split(embedded, 2)
            contrast = nt_xent(first, second, self.temperature, axis_name)
            total, metrics["contrast"] = total + self.gamma * contrast, contrast
        return total, (model_state, metrics)


def _trained(state: Mapping[str, Any]) -> dict[str, Any]:
    """What encodes and decodes."""
    return {name: state[name] for name in ("constants", STAGE)}


@programs.shared
def _batched(generator: Sane, method: str) -> Any:
    """A compiled method `(state, rows) -> rows`, some rows at a time."""

    def run(state: Mapping[str, Any], rows: jax.Array) -> jax.Array:
        function = functools.partial(getattr(generator, method), state)
        size = max(1, min(_AT_ONCE, _AT_ONCE_NUMBERS // len(state["constants"]["mean"])))
        return jax.lax.map(lambda row: function(row[None])[0], rows, batch_size=size)

    return jax.jit(run)
