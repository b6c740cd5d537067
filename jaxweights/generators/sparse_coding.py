"""Sparse codes of training networks: a dictionary of directions, of which every network takes a few."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators.base import Samples, keys_for
from jaxweights.generators.densities import Density
from jaxweights.population import Population
from jaxweights.settings import setting

_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class SparseCoding(Density):
    """Networks of a dictionary's atoms with independent coefficients.

    The dictionary (online dictionary learning, Mairal et al. 2009; scikit-learn) is one of the training networks in one
    form, their mean taken off, and coefficients are found by orthogonal matching pursuit. In a sample every atom has
    the coefficient, mostly zero, that some training network has, another one for every atom.

    Attributes:
      components: principal components that the dictionary is learned on, 0 for all that the training networks span.
      atoms: atoms of the dictionary.
      nonzero: atoms of one network, at most.
      penalty: weight of the sum of absolute coefficients while the dictionary is learned.
      seed: random seed of the dictionary that learning starts from.
    """

    TINY: ClassVar[Mapping[str, Any]] = {"atoms": 4, "nonzero": 2}

    name: str = "sparse_coding"
    atoms: int = setting(256, at_least=1)
    nonzero: int = setting(32, at_least=1)
    penalty: float = setting(1.0, above=0)
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)

    def __post_init__(self) -> None:
        """Raises UserError for more atoms of a network than there are."""
        super().__post_init__()
        if self.nonzero > self.atoms:
            self.refuse("nonzero", f"set it to at most atoms ({self.atoms})")

    def fit(self, training: Population) -> dict[str, Any]:
        """Atoms `[atoms, k]` of the components, and coefficients of the training networks `[N, atoms]`."""
        from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode  # a second to import

        scores, state = self.whitened(training)
        scale = np.linalg.norm(np.asarray(state["basis"], np.float64), axis=1)
        rows = scores * scale[None, :]  # components as long as they are: distances are those of weights
        learner = MiniBatchDictionaryLearning(
            self.atoms, alpha=self.penalty * rows.std(), max_iter=_ITERATIONS, random_state=self.seed
        )
        atoms = np.asarray(learner.fit(rows).components_)
        used = np.linalg.norm(atoms, axis=1) > 0
        codes = np.zeros((len(rows), len(atoms)))
        codes[:, used] = sparse_encode(
            rows, atoms[used], algorithm="omp", n_nonzero_coefs=min(self.nonzero, int(used.sum()), rows.shape[1])
        )
        whitened = atoms / np.where(scale > 0, scale, 1)[None, :]
        return {**state, "atoms": jnp.asarray(whitened, jnp.float32), "codes": jnp.asarray(codes, jnp.float32)}

    def sample(self, state: Mapping[str, Any], keys: jax.Array) -> Samples:
        """Fresh vectors; no parents."""
        codes = state["codes"]
        rows = jax.vmap(lambda key: jax.random.randint(key, codes.shape[1:], 0, len(codes)))(keys_for(keys, 0))
        drawn = jnp.take_along_axis(codes, rows, axis=0) @ state["atoms"]
        return Samples.new(self.unwhitened(state, drawn))
