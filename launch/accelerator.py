"""The parts of `launch/accelerator_check.sh` that no other program has: what the machine is, and the tables of all.

python -m launch.accelerator --part=machine --folder=runs/accelerator
python -m launch.accelerator --part=table --folder=runs/accelerator
"""

from __future__ import annotations

import json
import pathlib
import re
import time
from typing import Any

from absl import flags

from launch import common

_PART = flags.DEFINE_enum("part", "table", ("machine", "table"), "What to do.")
_FOLDER = flags.DEFINE_string("folder", None, "Folder of what the parts wrote.")
_RECORD = flags.DEFINE_string("record", None, "File of the whole record, for --part=table.")
_TABLE = flags.DEFINE_string("table", None, "File of the tables, Markdown, for --part=table.")

_OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b (\S+)")
_BYTES = 1 << 28  # what is copied to measure bandwidths


def main(argv) -> None:
    """Writes `machine.json`, or the record and the tables of what is in the folder."""
    del argv
    from jaxweights.errors import UserError

    if not _FOLDER.value:
        raise UserError("No --folder was named: that of launch/accelerator_check.sh.")
    folder = pathlib.Path(_FOLDER.value)
    if _PART.value == "machine":
        common.setup_jax()
        found = machine()
        (folder / "machine.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))
        return
    record = collected(folder)
    text = tables(record)
    for name, content in ((_RECORD.value, json.dumps(record, indent=1) + "\n"), (_TABLE.value, text)):
        if name:
            pathlib.Path(name).write_text(content, encoding="utf-8")
    print(text)


def machine() -> dict[str, Any]:
    """Versions and device, product rates in FLOP/s, bandwidths in bytes/s and the seconds of one dispatch."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxweights import costs, memory, parallel, provenance

    mesh = parallel.make_mesh()
    found: dict[str, Any] = {**provenance.versions(), "devices": mesh.size, "device_bytes": memory.devices()}
    found |= {"host_bytes": memory.host(), "cores": parallel.num_cores()}
    found["peak"] = {dtype: costs.matmul_peak(mesh, dtype=dtype) for dtype in ("float32", "bfloat16")}
    with jax.default_matmul_precision("float32"):
        found["peak"]["float32 in full precision"] = costs.matmul_peak(mesh)
    host = np.random.default_rng(0).integers(0, 255, _BYTES, np.uint8).view(np.float32)
    device = jax.block_until_ready(jax.device_put(host))
    add = jax.jit(lambda x: x + 1)
    small = jnp.zeros(8)
    found["bandwidth"] = {
        "host to device": _BYTES / _least(lambda: jax.block_until_ready(jax.device_put(host))),
        "device to host": _BYTES / _least(lambda: np.array(device + 0)),
        "on the device, read and written": 2 * _BYTES / _least(lambda: jax.block_until_ready(add(device))),
    }
    found["dispatch_s"] = _least(lambda: jax.block_until_ready(add(small)))
    return found


def _least(work, times: int = 5) -> float:
    """Seconds of the fastest of some calls after a first one."""
    work()
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def collected(folder: pathlib.Path) -> dict[str, Any]:
    """Everything that the parts wrote into a folder: `parts.txt` (name, exit status and seconds of each), JSON files by
    name, and the log of the tests."""
    parts = [line.split() for line in _read(folder / "parts.txt").splitlines()]
    record: dict[str, Any] = {"parts": {n: {"status": int(s), "seconds": int(t)} for n, s, t in parts}}
    for path in sorted(folder.glob("*.json")):
        record[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    outcomes = {test: kind for kind, test in _OUTCOME.findall(_read(folder / "tests.log"))}
    if outcomes:
        counts = {kind.lower(): list(outcomes.values()).count(kind) for kind in sorted(set(outcomes.values()))}
        failed = sorted(test for test, kind in outcomes.items() if kind in ("FAILED", "ERROR"))
        record["tests"] = {**counts, "names": failed}
    return record


def _read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def tables(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from launch.benchmarks import measure

    lines = [f"# {record.get('machine', {}).get('device', 'unknown device')}", ""]
    if "machine" in record:
        lines += [*_machine(record["machine"]), ""]
    lines += ["| part | exit status | s | outcome |", "|---|---|---|---|"]
    for name, part in record["parts"].items():
        lines.append(f"| {name} | {part['status']} | {part['seconds']} | {_outcome(name, record.get(name))} |")
    benchmarks = [part for part in record.values() if isinstance(part, dict) and "rows" in part]
    for suite in dict.fromkeys(row["suite"] for part in benchmarks for row in part["rows"]):
        rows = [row for part in benchmarks for row in part["rows"] if row["suite"] == suite]
        lines += ["", f"## {suite}", "", measure.table(rows).partition("\n")[2]]
    return "\n".join(lines) + "\n"


def _machine(facts: dict[str, Any]) -> list[str]:
    rates = [f"{kind} {rate / 1e12:,.3g} TFLOP/s" for kind, rate in facts["peak"].items()]
    speeds = [f"{way} {speed / 1e9:,.3g} GB/s" for way, speed in facts["bandwidth"].items()]
    return [
        f"{facts['devices']} device(s), {facts['cores']} cores, jax {facts['jax']}, Python {facts['python']}. "
        f"Products: {', '.join(rates)}. Copies: {', '.join(speeds)}. A dispatch: {1e6 * facts['dispatch_s']:.0f} µs."
    ]


def _outcome(name: str, found: dict[str, Any] | None) -> str:
    """What a part found, in words."""
    if not found:
        return "see the log" if found is None else "-"
    if "rows" in found:
        failed = "; ".join(f"{row['case']}: {row['error']}" for row in found["failed"])
        return f"{len(found['rows'])} cases{', failed: ' + failed if failed else ''}"
    if name == "tests":
        counts = ", ".join(f"{count} {kind}" for kind, count in found.items() if kind != "names")
        return counts + "".join(f"; {test}" for test in found["names"])
    if "zoo" in found:
        zoo = found["zoo"]
        said = [f"{zoo['runs']:,} runs in {found['seconds']:.0f} s"]
        said += [f"{zoo['runs_per_s']:,} runs/s"] if "runs_per_s" in zoo else []
        said += [f"mean accuracy {zoo['accuracy']:.2%}"] if "accuracy" in zoo else []
        for stage, one in found["generators"].items():
            rate = f"{one['steps_per_s']:.3g} steps/s" if one["steps_per_s"] else f"{one['steps']} steps"
            share = f", {one['peak_fraction']:.0%} of the float32 peak" if "peak_fraction" in one else ""
            said.append(f"{stage}: {rate}{share}, loss {one['first_loss']:.3g} to {one['last_loss']:.3g}")
        return "; ".join(said)
    return "done"


if __name__ == "__main__":
    common.run_main(main)
