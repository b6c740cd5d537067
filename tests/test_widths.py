"""How many models are trained together: fixed where it is set, usual where training is short, else measured once."""

import numpy as np
import pytest
import test_zoo
import zoos

from jaxweights import parallel
from jaxweights.zoo import widths


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Widths that were measured, in a cache of its own."""
    found = []
    monkeypatch.setattr(widths, "folder", lambda: tmp_path)
    monkeypatch.setattr(widths, "fastest", lambda trainer, loaded: found.append(trainer.width) or 2 * trainer.width)
    return found


def trainer(lanes=0, **changes):
    return zoos.trainer(test_zoo.network(), test_zoo.recipe(**changes), 200, parallel.make_mesh(1), lanes)


def test_a_width_is_measured_once_where_training_takes_long(measured, tmp_path):
    usual = trainer().width
    assert widths.chosen(trainer(), test_zoo.digits(), 100).width == usual and not measured
    for _ in range(2):
        assert widths.chosen(trainer(), test_zoo.digits(), 10**9).width == 2 * usual
    assert widths.chosen(trainer(lanes=3), test_zoo.digits(), 10**9).width == 3
    assert measured == [usual] and (tmp_path / widths.FILE).exists()
    assert widths._key(trainer(batch_order="shared")) != widths._key(trainer()) == widths._key(trainer(steps=9))


def test_the_fastest_of_the_candidates_is_taken(monkeypatch):
    each, measure = trainer(), widths._Timed.measure
    monkeypatch.setattr(type(each.program), "widths", lambda self, backend: (1, 2))
    monkeypatch.setattr(widths, "_MEASURED_SECONDS", 0.001)

    def second_is_faster(one):
        measure(one)
        assert 0 < one.best < np.inf
        one.best = 3 - one.width

    monkeypatch.setattr(widths._Timed, "measure", second_is_faster)
    assert widths.fastest(each, each.load(test_zoo.digits())) == 2
