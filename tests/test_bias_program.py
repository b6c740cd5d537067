"""`launch.classify` as a program: the comparison of images in miniature."""

import json
import subprocess
import sys

MINI = """
from configs import bias_images

def get_config():
    config = bias_images.get_config()
    config.bias.sets = {"encodings": config.bias.sets.encodings}
    config.bias.sets.encodings.of.limit = 90
    config.bias.transformations = {"original": {"kind": "identity"}}
    config.bias.classifier = {"kind": "linear", "epochs": 3, "batch_size": 10}
    config.bias.update({"repeats": 1, "controls": 1, "num_train": 16, "num_validation": 8})
    return config
"""


def test_the_program_compares_images(tmp_path):
    (tmp_path / "mini.py").write_text(MINI)
    flags = [f"--config={tmp_path / 'mini.py'}", f"--workdir={tmp_path / 'w'}", "--quiet"]
    found = subprocess.run([sys.executable, "-m", "launch.classify", *flags], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "encodings: as_it_is / jpeg_50 / resized, accuracy in %" in found.stdout
    assert f"page: {tmp_path / 'w'}/report.html" in found.stdout
    metrics = json.loads((tmp_path / "w" / "metrics.json").read_text())
    assert metrics["chance"] == 1 / 3 and list(metrics["transformations"]) == ["original"]
    for one in metrics["transformations"].values():
        assert set(one["accuracy"]) >= {"value", "ci95", "n"} and set(one["control"]) >= {"value", "ci95", "n"}
