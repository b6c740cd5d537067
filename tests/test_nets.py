"""Task networks: every entry of the registry has documented settings that refuse what they cannot have."""

import pytest

from jaxweights import nets, settings, tasks
from jaxweights.errors import UserError


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_settings_are_documented_and_make_the_round_trip(name):
    kind = nets.settings_class(name)
    default = kind()
    assert default.name == name
    assert [row.path for row in settings.rows(default, "net") if not row.text] == []
    assert settings.make(kind, settings.config_dict(default)) == default


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "resnet"}, r"net\.name is 'resnet'; set it to one of actor, cnn, .*did you mean resnet"),
        ({}, r"net\.name is ''; give the name of a network\."),
        ({"name": "mlp", "widht": 3}, r"There is no setting net\.widht"),
        ({"name": "mlp", "hiden": (3,)}, r"net\.hiden; did you mean hidden\?"),
        ({"name": "mlp", "hidden": (3, 0)}, r"net\.hidden is \(3, 0\); set it to at least 1\."),
        ({"name": "mlp", "activation": "swish"}, r"set it to one of relu, leaky_relu"),
        ({"name": "mlp", "init": "xavier"}, r"set it to one of torch, .*did you mean xavier"),
        ({"name": "cnn", "init": "orthogonal"}, r"net\.init is 'orthogonal'; set it to one of torch"),
        ({"name": "cnn", "pools": (True,)}, r"net\.pools is \(True,\); give one entry for each of the 3"),
        ({"name": "convnet", "channels": ()}, r"net\.channels is \(\); give at least 1 entry"),
        ({"name": "actor", "resize": 3}, r"There is no setting net\.resize"),
    ],
)
def test_wrong_settings_are_refused_by_name(config, message):
    with pytest.raises(UserError, match=message):
        tasks.build(config, (8, 8, 1), 10)


def test_settings_and_mappings_build_the_same_network():
    config = {"name": "mlp", "hidden": [5, 4], "resize": 6}
    net = nets.build(config, (8, 8, 1), 3)
    assert net == nets.build(settings.make(nets.settings_class("mlp"), config), (8, 8, 1), 3)
    assert net.image_shape == (6, 6, 1) and net.spec.num_params == (36 + 1) * 5 + (5 + 1) * 4 + (4 + 1) * 3
