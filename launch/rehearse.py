"""One training step of a generator at its full size, on random networks: what a launch will need.

    python -m launch.rehearse --config=configs/paper/hyperdiffusion_plane.py --host_devices=8 --upto=compile

Prints memory per device as the compiled programs have it (emulated devices share that of the machine), seconds, and the
largest resident memory. Nothing but what `--upto` names is allocated.
"""

from __future__ import annotations

import json
import time

from absl import flags

from launch import common, stages

_GENERATOR = flags.DEFINE_string("generator", None, "Name of the generator in the config; the first learned one.")
_STAGE = flags.DEFINE_string("stage", None, "Name of its stage; the first one. Stages before it are only initialised.")
_UPTO = flags.DEFINE_enum(
    "upto", "step", ["compile", "init", "step"], "How far to go: compile the programs, initialise, take one step."
)


def main(argv) -> None:
    """Rehearses one stage and prints what it took."""
    del argv
    config = stages.config()
    common.setup_jax()
    found = rehearse(config, _GENERATOR.value, _STAGE.value, _UPTO.value, stages.data_dir())
    print(json.dumps(found, indent=1))


def rehearse(config: dict, name: str | None, stage_name: str | None, upto: str, data_dir: str | None = None) -> dict:
    """Goes as far as `upto` says with one stage; returns JSON data."""
    import jax
    import numpy as np

    from jaxweights import costs, parallel, sharding
    from jaxweights.training import StageTrainer

    generator, data, constants = _prepared(config, name, data_dir)
    mesh, done = parallel.make_global_mesh(), {"constants": constants}
    names = [stage.name for stage in generator.stages()]
    position = _position(names, stage_name)
    for stage in generator.stages()[: position + 1]:
        trainer = StageTrainer(stage, data, done, mesh, jax.random.key(0), f"{generator.name}/{stage.name}")
        if stage.name != names[position]:
            state = trainer.init()
            done = {**done, stage.name: {"params": state.params, "model_state": state.model_state}}
    shapes = jax.eval_shape(trainer.init).params
    begin = time.perf_counter()
    initial, step = trainer.compile()
    found = {
        "generator": generator.name,
        "stage": names[position],
        "parameters": sum(x.size for x in jax.tree.leaves(shapes)),
        "mesh": {axis: int(size) for axis, size in trainer.mesh.shape.items()},
        "parameters_split_over": trainer.mesh.shape[sharding.MODEL] if stage.parameter_shards != 1 else 1,
        "compile_s": round(time.perf_counter() - begin, 1),
        "init_gib_per_device": _memory(initial),
        "step_gib_per_device": _memory(step),
    }
    if upto != "compile":
        begin = time.perf_counter()
        state = jax.block_until_ready(trainer.init())
        found["init_s"] = round(time.perf_counter() - begin, 1)
    if upto == "step":
        begin = time.perf_counter()
        state, metrics = jax.block_until_ready(trainer.advance(state, 1))
        found["step_s"] = round(time.perf_counter() - begin, 1)
        found["loss"] = float(np.asarray(metrics["loss"])[0])
    return {**found, "peak_gib": round(costs.host_peak() / 2**30, 2)}


def _prepared(config: dict, name: str | None, data_dir: str | None):
    """A learned generator of a config, and what it makes of as many random networks as a batch has."""
    import numpy as np

    from jaxweights import tasks
    from jaxweights.errors import UserError
    from jaxweights.experiment import plan
    from jaxweights.experiment.config import complete, parse
    from jaxweights.generators import LearnedGenerator
    from jaxweights.population import Population

    parsed = parse(config)
    config = complete(config, parsed)
    examples = tasks.get(parsed.task).examples(parsed.data, net=config["net"], data_dir=data_dir)
    planned = plan.make(parsed, config, examples)
    trained = {name: generator for name, (generator, source) in planned.generators.items() if name == source}
    learned = {name: generator for name, generator in trained.items() if isinstance(generator, LearnedGenerator)}
    if not learned or name not in {None, *learned}:
        known = ", ".join(learned) or "none"
        raise UserError(f"The config has no learned generator {name or ''}; known: {known}. Give one as --generator.")
    generator = learned[name or next(iter(learned))]
    rows = max(stage.batch_size for stage in generator.stages())
    spec = planned.net.spec
    weights = np.random.default_rng(0).normal(0, 0.1, (2 * rows, spec.num_params)).astype(np.float32)
    run, step = np.arange(2 * rows) // 2, np.arange(2 * rows) % 2
    population = Population.create(weights, spec, run=run, step=step, loss=1.0, accuracy=0.5)
    return generator, *generator.prepare(population)


def _position(names: list[str], name: str | None) -> int:
    from jaxweights.errors import UserError

    if name not in {None, *names}:
        raise UserError(f"There is no stage {name!r}; known: {', '.join(names)}. Give one of them as --stage.")
    return names.index(name) if name else 0


def _memory(program) -> dict[str, float]:
    """Memory of a compiled program on every device, in GiB."""
    analysis = program.memory_analysis()
    sizes = {
        "arguments": analysis.argument_size_in_bytes,
        "results_beside_them": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
    }
    return {name: float(f"{size / 2**30:.4g}") for name, size in sizes.items()}


if __name__ == "__main__":
    common.run_main(main)
