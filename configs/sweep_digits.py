"""A sweep: 10,000 networks on digits, a random search of 500 recipes with 20 seeds each, in one compiled program.

    python -m launch.sweep --config=configs/sweep_digits.py --workdir=runs/sweep_digits

39 seconds on two cores, nothing to download.
"""

from configs import base


def get_config():
    """The digits MLP 64-16-10, 20 epochs: learning rate, momentum, weight decay, initial scale and label smoothing."""
    config = base.get_config()
    config.zoo.epochs = 20
    config.zoo.largest_weight = 1000.0  # runs beyond count as diverged
    config.sweep = base.sweep(
        draws=500,
        seeds=20,
        zoo={
            "learning_rate": {"kind": "log_uniform", "low": 0.003, "high": 10.0},
            "momentum": {"kind": "choice", "values": (0.0, 0.5, 0.9, 0.95)},
            "weight_decay": {"kind": "log_uniform", "low": 1e-5, "high": 1e-2},
            "init_scale": {"kind": "log_uniform", "low": 0.1, "high": 10.0},
            "label_smoothing": {"kind": "uniform", "low": 0.0, "high": 0.3},
        },
    )
    return config
