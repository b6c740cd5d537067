"""What `--dry_run` prints: an experiment, how it is divided, what it writes, and how long it takes."""

from __future__ import annotations

from typing import Any

from launch import common, describe


def text(config: dict, workdir: str, count: int | None, data_dir: str | None) -> str:
    """The lines of a dry run.

    Args:
      config: of the experiment.
      workdir: where it would be done.
      count: processes to assume, or None for those that there are.
      data_dir: folder of the data sets, or None for the default.
    """
    from jaxweights import describe as library
    from jaxweights import division, processes
    from launch.benchmarks import planning

    facts = library.describe(config, data_dir)
    parts = division.divide(config, workdir, count or processes.count(), data_dir)
    estimate = planning.zoo_seconds(facts["zoo"]["operations"], parts["devices"])
    return common.aligned([*describe.rows(facts), *division_rows(parts), *time_rows(parts, estimate)])


def division_rows(parts: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines about processes, devices and bytes of what `division.divide` returns."""
    from jaxweights.progress import human

    devices, zoo, samples = parts["devices"], parts["zoo"], parts["samples"]
    count = devices["processes"]
    rows = [("devices", f"{count} x {devices['per_process']} {devices['kind']} (processes x devices)")]
    if zoo is not None:
        rows.append(
            (
                "zoo",
                f"{zoo['chunks']} chunks of {zoo['chunk_size']:,} runs, {zoo['lanes']} together on a device; "
                f"{zoo['done']} done, {_each(zoo['per_process'])}",
            )
        )
    for name, stages in parts["generators"].items():
        for stage, mesh in stages.items():
            shards = "" if mesh["shards"] == 1 else f", parameters in {mesh['shards']} parts"
            work = f"mesh {mesh['data']} x {mesh['model']} (data x model), a batch over {mesh['rows_over']} devices"
            rows.append((f"{name} {stage}", f"{work}, {mesh['rows_each']} rows each{shards}"))
    rows.append(("samples of a series", f"{samples['per_series']:,}, {_each(samples['per_process'])}"))
    written = (
        f"{human(parts['bytes'])}B of weights, {human(samples['bytes'])}B of them {samples['series']} series of samples"
    )
    return [*rows, ("writes", f"{written}; {human(parts['free'])}B are free")]


def _each(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,} per process" if low == high else f"{low:,} to {high:,} per process"


def time_rows(parts: dict[str, Any], estimate) -> list[tuple[str, str]]:
    """The lines about time: what is known of the workdir, else of measurements on such devices."""
    spent, zoo = parts["seconds"], parts["zoo"]
    if zoo is None:
        rows = [("time of the zoo", "none, it is imported")]
    elif zoo["done"] == zoo["chunks"]:
        rows = [("time of the zoo", "none, it is done")]
    elif zoo["done"] and spent.get("zoo"):
        ahead = spent["zoo"] / zoo["done"] * (zoo["chunks"] - zoo["done"])
        rows = [("time of the zoo", f"{_span(ahead)}, as the chunks that are done took, on as many devices")]
    elif estimate is None:
        rows = [("time of the zoo", "not known: benchmarks/ has no measurement of such a device")]
    else:
        low, high = (seconds * (1 - (zoo["done"] / zoo["chunks"])) for seconds in estimate.seconds)
        share = f"{100 * estimate.shares[0]:.0f} to {100 * estimate.shares[1]:.0f} % of the peak"
        how = f"computed: its operations at {share}, as in {estimate.source}; compiling and writing come on top"
        rows = [("time of the zoo", f"{_span(low)} to {_span(high)}, {how}")]
    others: dict[str, float] = {}
    for stage, seconds in spent.items():
        kind = "samples" if stage.startswith("sample ") else stage
        others[kind] = others.get(kind, 0.0) + seconds
    if others:
        rows.append(("spent so far", ", ".join(f"{name} {_span(seconds)}" for name, seconds in others.items())))
    return [*rows, ("time of the rest", "not known; progress shows the time left of the work at hand")]


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
