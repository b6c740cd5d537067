"""Hyper-Representations as a generator: how the autoencoder is trained, encodes and decodes, and is sampled from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights.errors import UserError
from jaxweights.generators import domain, rows
from jaxweights.generators.base import OnHost, Samples, Stage, Training
from jaxweights.generators.hyperrep import loss as losses
from jaxweights.generators.hyperrep.latents import draw
from jaxweights.generators.hyperrep.layout import UnitLayout, check_layout
from jaxweights.generators.hyperrep.network import Autoencoder
from jaxweights.generators.hyperrep.plateau import Plateau
from jaxweights.generators.hyperrep.settings import HyperRepSettings
from jaxweights.generators.hyperrep.views import permutation_table, two_views
from jaxweights.nn.contrast import nt_xent, positive_contrast
from jaxweights.nn.parameters import initialise
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

STAGE = "autoencoder"

# The published code drops one of the two terms of the loss where the other's weight is within this of 1.
_ALL = 1e-10
# Training networks that are encoded at once, and those that are on the device.
_ENCODED, _ENCODED_ROWS = 64, 1 << 16


@dataclasses.dataclass(frozen=True)
class HyperRep(HyperRepSettings):
    """Hyper-Representations: an autoencoder of weights, and a sampler of its latents."""

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`; the table of permutations has rows of its own."""
        table = self.permutations_number if self.permutations == "table" else 0
        return (training.rows + table) * training.spec.num_params

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """Leaves the weights as they are and gathers what the losses and the views need.

        Args:
          training: rows `[N, P]` and their spec.

        Returns:
          `[N, P]` float32, and `layout` (static), `mean` `[P]`, `std` `[P]` (of each weight's layer), `mean_loss`
          `[1 + num_layers]` (the reconstruction loss of predicting the mean vector), `score` `[N]` and `step` `[N]` of
          the rows (test accuracy and optimizer step), and, with the permutations "table", `permutations`
          `[permutations_number, P]` int32.

        Raises:
          UserError: the network's weights cannot be encoded this way, or `layer_weights` does not have one entry per
            layer.
        """
        layout = UnitLayout(training.spec)
        check_layout(layout, self.encoding)
        if self.layer_weights and len(self.layer_weights) != len(layout.layers):
            raise UserError(
                f"{self.section}.layer_weights has {len(self.layer_weights)} entries, but the task network has "
                f"{len(layout.layers)} layers ({', '.join(layer.name for layer in layout.layers)}); give one for each."
            )
        weights = rows.kept(training.weights)
        mean, std = losses.moments(layout, weights)
        constants = {
            "layout": layout,
            "mean": mean,
            "std": std,
            "mean_loss": losses.mean_losses(layout, weights, mean, self._error_scale(std), **self._reconstruction()),
            "score": np.asarray(training.records["accuracy"], np.float32),
            "step": np.asarray(training.records["step"], np.int32),
            **domain.floors(training, by_tensor=True),
        }
        if self.permutations == "table":
            constants["permutations"] = permutation_table(
                training.spec, self.permutations_number, self.permutations_seed
            )
        return weights, constants

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "autoencoder"."""
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=self._optimizer(),
                init=self._init,
                loss=self._loss,
                gradient_clip=self.gradient_clip if self.gradient_clipping == "norm" else 0.0,
                parameter_shards=self.parameter_shards,
                data_memory=self.data_memory,
                stacked=("blocks",),
                auxiliary=("projection",),
            ),
        )

    def encode(self, state: Mapping[str, Any], weights: jax.Array) -> jax.Array:
        """Latents of weight vectors; pure, jit-compatible.

        Args:
          state: `constants` and `autoencoder`.
          weights: `[n, P]` float32.

        Returns:
          `[n, latent_dim]` float32.
        """
        constants, params = state["constants"], state[STAGE]["params"][STAGE]
        x = weights / self._feature_scale(constants)
        module: Any = self._module(constants)
        return module.apply({"params": params}, x, method="encode")

    def decode(self, state: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        """Weight vectors of latents; pure, jit-compatible.

        Args:
          state: `constants` and `autoencoder`.
          latents: `[n, latent_dim]` float32.

        Returns:
          `[n, P]` float32.
        """
        constants, params = state["constants"], state[STAGE]["params"][STAGE]
        module: Any = self._module(constants)
        out = module.apply({"params": params}, latents, method="decode")
        return domain.inside(out * self._feature_scale(constants), constants, self.variances)

    def finish(self, state: Mapping[str, Any], data: np.ndarray) -> dict[str, Any]:
        """Returns `latents` `[N, latent_dim]` of the training rows, and on the host their `weights` `[N, P]`."""
        encode = jax.jit(
            lambda state, rows: jax.lax.map(lambda r: self.encode(state, r[None, :])[0], rows, batch_size=_ENCODED)
        )
        starts = range(0, len(data), _ENCODED_ROWS)
        latents = [np.asarray(encode(state, jnp.asarray(data[i : i + _ENCODED_ROWS]))) for i in starts]
        return {"latents": np.concatenate(latents), "weights": OnHost(data)}

    def inputs(self, state: Mapping[str, Any], keys: jax.Array, starts: Population) -> dict[str, np.ndarray]:
        """Returns `latents` `[n, latent_dim]` and `parents` `[n]`, rows of the training population or -1; with the
        sampler "direct" also the `weights` `[n, P]` of these."""
        constants = state["constants"]
        drawn = draw(self.latent_sampler, state["latents"], keys, constants["score"], constants["step"])
        found = {"latents": drawn.latents, "parents": drawn.parents}
        if self.sampler == "direct":
            found["weights"] = np.asarray(state["weights"].rows[np.asarray(drawn.parents)])
        return found

    def sample(self, state: Mapping[str, Any], inputs: Mapping[str, jax.Array]) -> Samples:
        """Decodes latents; the sampler "direct" yields the training networks that it names, as published."""
        if self.sampler == "direct":
            return Samples(inputs["weights"], inputs["parents"])
        return Samples(self.decode(state, inputs["latents"]), inputs["parents"])

    def num_tokens(self, spec: WeightSpec) -> int:
        """One network's tokens and, where there is one, the token that becomes the latent."""
        return self.architecture.num_tokens(UnitLayout(spec)) + (self.compression == "token")

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of the sampler that matter, for the report."""
        sampler = self.latent_sampler
        facts = {"kind": sampler.kind, "mode": sampler.mode or None}
        return facts | ({"top": sampler.top} if sampler.kind not in ("uniform", "direct") else {})

    @property
    def _contrasts(self) -> bool:
        return self.gamma >= _ALL

    @property
    def _reconstructs(self) -> bool:
        return abs(1.0 - self.gamma) >= _ALL

    def _module(self, constants: Mapping[str, Any]) -> Autoencoder:
        return Autoencoder(constants["layout"], self.architecture)

    def _projection(self) -> losses.ProjectionHead | None:
        if not self.projection_layers or not self._contrasts:
            return None
        hidden = self.projection_hidden or self.latent_dim
        features = self.projection_features or max(self.latent_dim // 2, 1)
        return losses.ProjectionHead(
            self.projection_layers, hidden, features, self.projection_batch_norm, self.projection_init
        )

    def _error_scale(self, std: Any) -> Any:
        """What errors are divided by, `[P]`."""
        return std if self.normalize_loss else np.ones(std.shape, np.float32)

    def _feature_scale(self, constants: Mapping[str, Any]):
        """What weights are divided by before they are encoded, `[1, P]` or 1."""
        return constants["std"][None, :] if self.feature_normalization else 1.0

    def _reconstruction(self) -> dict[str, Any]:
        return {
            "reduction": self.reduction,
            "layer_weights": self.layer_weights,
            "error_threshold": self.error_threshold,
        }

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        """Parameters `{"autoencoder", "projection"}`, and the head's running statistics."""
        module = self._module(done["constants"])
        network_key, head_key = jax.random.split(key)
        x = jnp.zeros((1, module.layout.num_params))
        params = {STAGE: initialise(module, network_key, x)["params"]}
        head, model_state = self._projection(), {}
        if head is not None:
            variables = initialise(head, head_key, jnp.zeros((1, self.latent_dim)), "running")
            params["projection"], model_state = variables["params"], variables["batch_stats"]
        return params, model_state

    def _loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: jax.Array,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Contrast and reconstruction of two views, see `Stage.loss`."""
        constants = done["constants"]
        layout = constants["layout"]
        view_keys, *dropout_keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        inputs, targets = two_views(batch, view_keys, layout.spec, self.views, constants.get("permutations"))
        dropout_keys = jnp.concatenate(dropout_keys) if self.dropout else None
        return self._loss_of_views(params, model_state, constants, inputs, targets, dropout_keys, axis_name)

    def _loss_of_views(self, params, model_state, constants, inputs, targets, dropout_keys, axis_name):
        """The loss of views `[2, b, P]`; `dropout_keys` `[2 b]`, the first views' first."""
        module: Any = self._module(constants)
        scale = self._feature_scale(constants)
        layout, size = constants["layout"], inputs.shape[1]
        x, target = inputs.reshape(2 * size, -1), targets.reshape(2 * size, -1)
        variables = {"params": params[STAGE]}
        z = module.apply(variables, x / scale, dropout_keys, method="encode")
        z_i, z_j = z[:size], z[size:]
        total, metrics = jnp.float32(0), {}
        if self._contrasts:
            contrast, model_state = self._contrast(params, model_state, z_i, z_j, axis_name)
            weight = self.gamma if self._reconstructs else 1.0
            total, metrics["contrast"] = total + weight * contrast, contrast
        if self._reconstructs:
            y = module.apply(variables, z, dropout_keys, method="decode") * scale
            error_scale = self._error_scale(constants["std"])
            reconstruction, layers = losses.reconstruction_loss(
                layout, y, target, error_scale, **self._reconstruction()
            )
            weight = 1 - self.gamma if self._contrasts else 1.0
            total, metrics["reconstruction"] = total + weight * reconstruction, reconstruction
            explained = losses.r2(jnp.concatenate([reconstruction[None], layers]), constants["mean_loss"])
            names = ["r2"] + [f"r2_{layer.name}" for layer in layout.layers]
            metrics |= dict(zip(names, explained, strict=True))
        variance = losses.latent_variance(z_i, axis_name)
        metrics["latent_variance"] = variance
        if self.latent_variance_penalty:
            total = total + self.latent_variance_penalty * variance
        return total, (model_state, metrics)

    def _contrast(self, params, model_state, z_i, z_j, axis_name):
        """The contrast of two views' latents, and the head's running statistics after both."""
        head = self._projection()
        if head is not None:

            def project(z, batch_stats):
                variables = {"params": params["projection"], "batch_stats": batch_stats}
                out, updated = head.apply(variables, z, "batch", axis_name, mutable=["batch_stats"])
                return out, updated["batch_stats"]

            z_i, model_state = project(z_i, model_state)
            z_j, model_state = project(z_j, model_state)
        function = nt_xent if self.contrast == "simclr" else positive_contrast
        return function(z_i, z_j, self.temperature, axis_name), model_state

    def _optimizer(self) -> optax.GradientTransformation:
        rate = self.learning_rate
        if self.scheduler == "cosine":
            rate = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        parts: list[optax.GradientTransformation] = []
        if self.gradient_clipping == "value":
            parts.append(optax.clip(self.gradient_clip))
        if self.optimizer == "adamw":
            parts.append(optax.adamw(rate, weight_decay=self.weight_decay))
        else:
            parts.append(optax.add_decayed_weights(self.weight_decay))
            parts.append(optax.adam(rate) if self.optimizer == "adam" else optax.sgd(rate, momentum=self.momentum))
        if self.scheduler == "plateau":
            fields = {f.name: getattr(self, f"scheduler_{f.name}") for f in dataclasses.fields(Plateau)}
            parts.append(Plateau(**fields).transformation(self.learning_rate))
        return optax.chain(*parts)
