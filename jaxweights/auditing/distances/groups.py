"""Which pairs of a comparison do not count: those of one group, such as checkpoints of one run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxweights.errors import UserError


@dataclass(frozen=True)
class ExclusionGroups:
    """Group numbers of both sets as int32 codes, or `None` for both where every pair is admissible."""

    queries: np.ndarray | None
    references: np.ndarray | None

    def of_queries(self, rows: slice | np.ndarray) -> ExclusionGroups:
        """Restricts the queries to some rows."""
        return self if self.queries is None else ExclusionGroups(self.queries[rows], self.references)

    @property
    def exclude(self) -> bool:
        """Whether any pair may not count."""
        return self.queries is not None

    def query_codes(self, count: int) -> np.ndarray:
        """Returns the codes `[count]` of all queries; zeros where every pair is admissible."""
        return np.zeros(count, np.int32) if self.queries is None else self.queries

    def reference_codes(self, block: slice) -> np.ndarray:
        """Returns the codes of some references; zeros where every pair is admissible."""
        return np.zeros(block.stop - block.start, np.int32) if self.references is None else self.references[block]

    def excluded(self, columns: slice) -> np.ndarray | None:
        """Returns the mask `[M, columns]` of pairs that do not count, or `None` where all count."""
        if self.queries is None or self.references is None:
            return None
        return self.queries[:, None] == self.references[None, columns]


def exclusion_groups(
    query_groups: np.ndarray | None, reference_groups: np.ndarray | None, num_queries: int, num_references: int, k: int
) -> ExclusionGroups:
    """Checks the groups and renumbers them as int32.

    Args:
      query_groups: `[M]` integers or `None`.
      reference_groups: `[N]` integers or `None`.
      num_queries: M.
      num_references: N.
      k: references that every query needs.

    Raises:
      ValueError: if only one of the two is given or a length does not fit.
      UserError: if a query has fewer than k admissible references.
    """
    if (query_groups is None) != (reference_groups is None):
        raise ValueError("query_groups and reference_groups must be given together")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if query_groups is None:
        admissible, codes = np.full(num_queries, num_references), ExclusionGroups(None, None)
    else:
        query_groups, reference_groups = np.asarray(query_groups), np.asarray(reference_groups)
        if query_groups.shape != (num_queries,) or reference_groups.shape != (num_references,):
            raise ValueError(
                f"groups of shapes {query_groups.shape} and {reference_groups.shape} do not fit "
                f"{num_queries} queries and {num_references} references"
            )
        both = np.concatenate([query_groups, reference_groups])
        numbers = np.unique(both, return_inverse=True)[1].reshape(-1).astype(np.int32)
        queries, references = numbers[:num_queries], numbers[num_queries:]
        codes = ExclusionGroups(queries, references)
        members = np.bincount(references, minlength=int(numbers.max()) + 1)
        admissible = num_references - members[queries]
    short = np.flatnonzero(admissible < k)
    if short.size:
        raise UserError(
            f"Query {short[0]} ({short.size} of {num_queries} queries) may be compared with {admissible[short[0]]} of "
            f"the {num_references} reference vectors, but {k} are needed once its own group is left out. Use a "
            "reference with more runs, or ask for fewer neighbours."
        )
    return codes
