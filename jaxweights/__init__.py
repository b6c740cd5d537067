"""jaxweights: train zoos of networks in bulk, model their weights, and audit whether the model invents or remembers.

    import jaxweights as jw

    zoo = jw.train_zoo("digits", hidden=(16,), runs=512, heldout=128, start="shared", seed=0)
    model = jw.fit("pdiff_small", zoo.train, seed=0)
    samples = jw.sample(model, 256, seed=1)
    result = jw.audit(zoo.train, zoo.heldout, samples)
    result.report("report.html")

The names below are public; everything else may change without notice.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxweights.api.audit import AuditResult as AuditResult
    from jaxweights.api.audit import audit as audit
    from jaxweights.api.export import export as export
    from jaxweights.api.generators import Model as Model
    from jaxweights.api.generators import fit as fit
    from jaxweights.api.generators import sample as sample
    from jaxweights.api.released import released as released
    from jaxweights.api.sweep import SweepResult as SweepResult
    from jaxweights.api.sweep import sweep as sweep
    from jaxweights.api.zoo import evaluate as evaluate
    from jaxweights.api.zoo import train_zoo as train_zoo
    from jaxweights.errors import UserError as UserError
    from jaxweights.nn.leaves import Leaves as Leaves
    from jaxweights.population import Population as Population
    from jaxweights.spec import WeightSpec as WeightSpec
    from jaxweights.state_dicts import from_state_dicts as from_state_dicts
    from jaxweights.state_dicts import to_state_dict as to_state_dict

__version__ = "0.1.0"

# Imported when they are first used, so that `--help` and the like do not wait for JAX.
_PUBLIC = {
    "AuditResult": "jaxweights.api.audit",
    "Leaves": "jaxweights.nn.leaves",
    "Model": "jaxweights.api.generators",
    "Population": "jaxweights.population",
    "SweepResult": "jaxweights.api.sweep",
    "UserError": "jaxweights.errors",
    "WeightSpec": "jaxweights.spec",
    "audit": "jaxweights.api.audit",
    "evaluate": "jaxweights.api.zoo",
    "export": "jaxweights.api.export",
    "fit": "jaxweights.api.generators",
    "from_state_dicts": "jaxweights.state_dicts",
    "released": "jaxweights.api.released",
    "sample": "jaxweights.api.generators",
    "sweep": "jaxweights.api.sweep",
    "to_state_dict": "jaxweights.state_dicts",
    "train_zoo": "jaxweights.api.zoo",
}
__all__ = list(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxweights' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
