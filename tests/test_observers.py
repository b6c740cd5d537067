"""What looks on while an experiment runs: loss curves for TensorBoard, traces, and costs of the stages."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import costs, report, traces, trackers
from jaxweights.errors import UserError


def test_tensorboard_gets_the_numbers_of_the_loss_curve(tmp_path, monkeypatch):
    writer, last = pytest.importorskip("tensorboardX"), []
    monkeypatch.setattr("jaxweights.trackers.at_exit", last.append)
    write = trackers.tensorboard(tmp_path)
    for step in (1, 2):
        write({"generator": "mine", "stage": "first", "step": step, "loss": 0.5 / step, "rate": 3.0})
    last[0]()
    (path,) = tmp_path.iterdir()
    events = [writer.proto.event_pb2.Event.FromString(record) for record in _records(path.read_bytes())]
    found = [(value.tag, event.step, value.simple_value) for event in events for value in event.summary.value]
    assert sorted(found) == [(f"mine/first/{k}", s, v) for k, s, v in _EXPECTED]


_EXPECTED = [("loss", 1, 0.5), ("loss", 2, 0.25), ("rate", 1, 3.0), ("rate", 2, 3.0)]


def _records(data):
    """The records of a TFRecord file: length, checksum, content, checksum."""
    while data:
        size = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + size]
        data = data[16 + size :]


def test_a_tracker_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="wandb is not installed"):
        trackers.wandb("project", tmp_path, {})


def test_one_moment_of_each_work_is_traced(tmp_path):
    traces.record_to(tmp_path)
    try:
        for _ in range(3):
            with traces.moment("train mine/first"):
                jnp.ones(3).sum().block_until_ready()
    finally:
        traces.record_to(None)
    with traces.moment("train mine/first"):
        pass
    (folder,) = tmp_path.iterdir()
    assert folder.name == "train-mine-first" and len(list(folder.rglob("*.xplane.pb"))) == 1


def test_costs_are_those_of_the_block(tmp_path):
    with costs.metered() as outer:
        with costs.metered() as inner:
            jax.jit(lambda x: jnp.sin(x) @ x)(np.ones((7, 7), np.float32)).block_until_ready()
            big = np.ones(40 << 20, np.uint8)
        del big
        time.sleep(0.01)
    assert 0 < inner.compile_seconds <= outer.compile_seconds and outer.seconds >= inner.seconds + 0.01
    assert outer.peak_bytes >= inner.peak_bytes > 40 << 20
    known = {"zoo": {"compile_seconds": 0.5, "peak_bytes": 3 << 20, "device_peak_bytes": 0}}
    path = report.write_costs(tmp_path, {"zoo": 2.5, "audit": 1.0}, known, {"zoo": 8e9}, 1e10, "2 x cpu")
    text = path.read_text()
    for cell in ("2.5", "0.5", "3.15MB", "8G", "4G", "40.0 %", "10GFLOP/s"):
        assert cell in text
