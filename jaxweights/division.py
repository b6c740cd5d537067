"""How an experiment is divided over processes and devices, and what it writes; nothing is trained, allocated or
written."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax

from jaxweights import generators, parallel, processes, sharding, store, tasks, training
from jaxweights.auditing import symmetry
from jaxweights.experiment import CONTROLS, parse, plan
from jaxweights.experiment.config import complete
from jaxweights.experiment.workdir import known_timing
from jaxweights.zoo import Trainer, bulk

_FLOAT = 4  # bytes


@dataclasses.dataclass(frozen=True)
class _Device:
    """A device of a process that there may not be."""

    platform: str
    process_index: int
    id: int


def divide(config: Mapping[str, Any], workdir: str, count: int, data_dir: str | None = None) -> dict[str, Any]:
    """Divides an experiment.

    Args:
      config: see `configs/base.py`.
      workdir: where it would be done; what is there already counts.
      count: processes, with as many devices each as this one has.
      data_dir: only for data sets whose sizes are not published facts.

    Returns:
      JSON data: `devices`; `zoo`, null for one that is imported: runs per chunk, models per `vmap` (lanes), chunks, how
      many of them are in the workdir, and how many of the others each process trains; `generators`: by name and stage
      the devices along the axes of the mesh, how many parts (shards) parameters are split into, over how many devices
      the rows of a batch are, and how many each has; `samples` of a series, series and their
      bytes, and the samples of each process; `bytes` that are written of weights and `free` ones on the disk;
      `seconds` by stage that were spent in the workdir so far, where it holds this experiment.

    Raises:
      UserError: as `describe.describe`.
    """
    parsed = parse(config)
    config = complete(config, parsed)
    task = tasks.get(parsed.task)
    planned = plan.make(parsed, config, task.examples(parsed.data, net=config["net"], data_dir=data_dir))
    local = jax.local_devices()
    every = [
        _Device(d.platform, process, process * len(local) + i) for process in range(count) for i, d in enumerate(local)
    ]
    series = len(planned.generators) + len(symmetry.applicable(CONTROLS, planned.net.spec))
    samples = series * parsed.num_samples * planned.net.spec.num_params * _FLOAT
    divided = None if parsed.zoo.import_npz else _zoo(planned, pathlib.Path(workdir) / "zoo", count)
    return {
        "devices": {"kind": local[0].device_kind, "per_process": len(local), "processes": count},
        "zoo": divided,
        "generators": {
            name: _stages(generator, planned, every)
            for name, (generator, trained) in planned.generators.items()
            if name == trained and isinstance(generator, generators.LearnedGenerator)
        },
        "samples": {
            "per_series": parsed.num_samples,
            "series": series,
            "bytes": samples,
            "per_process": [
                b.stop - b.start for b in (processes.block(parsed.num_samples, i, count) for i in range(count))
            ],
        },
        "bytes": samples + (0 if divided is None else planned.zoo.rows * planned.net.spec.num_params * _FLOAT),
        "free": shutil.disk_usage(_existing(pathlib.Path(workdir))).free,
        "seconds": known_timing(workdir, config),
    }


def _zoo(planned: plan.Plan, path: pathlib.Path, count: int) -> dict[str, Any]:
    chosen: Any = planned.settings.zoo
    total = planned.zoo.runs + planned.zoo.heldout
    program = planned.task.program(planned.net, planned.recipe, planned.examples.train)
    trainer, done = Trainer(program, parallel.make_mesh(), chosen.lanes), set()
    if (path / store.INDEX).exists():
        there = store.PopulationStore.open(path, drop_missing=True)
        chunk, width, done = there.provenance["chunk_size"], there.provenance["lanes"], there.chunk_ids
    else:
        trainer, chunk = bulk.in_chunks(trainer, total, chosen.chunk_size, count)
        width = trainer.width
    chunks = -(-total // chunk)
    missing = [c for c in range(chunks) if c not in done]
    return {
        "chunk_size": min(chunk, total),
        "lanes": width,
        "chunks": chunks,
        "done": chunks - len(missing),
        "per_process": [len(bulk.dealt(missing, part, count)) for part in range(count)],
    }


def _stages(generator: Any, planned: plan.Plan, devices: list[_Device]) -> dict[str, Any]:
    found = {}
    for one in plan.stage_shapes(generator, planned.net):
        chosen = training.arrange(one.stage, devices, plan.count(one.params))
        shape = dict(chosen.mesh.shape)
        split = math.prod(shape[axis] for axis in chosen.rows)
        found[one.stage.name] = {
            "data": shape[parallel.AXIS],
            "model": shape[sharding.MODEL],
            "shards": 1 if one.stage.parameter_shards == 1 else shape[sharding.MODEL],
            "rows_over": split,
            "rows_each": one.stage.batch_size // split,
        }
    return found


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The folder, or the nearest one above it that there is."""
    path = path.expanduser().absolute()
    return next(p for p in (path, *path.parents) if p.exists())
