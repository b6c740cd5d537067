"""A sweep of a generator: P-diff on digits networks, six settings of learning rate and noise, two seeds each.

    python -m launch.sweep --config=configs/sweep_pdiff_digits.py --workdir=runs/sweep_pdiff_digits

Seven and a half minutes on two busy cores.
"""

from configs import base, digits


def get_config():
    """The zoo and the P-diff of the demo; 12 trainings in one compiled program, judged by accuracy of their samples."""
    config = digits.get_config()
    config.generators = {"pdiff": config.generators.pdiff}
    config.sweep = base.sweep(
        seeds=2,
        generators={
            "pdiff": {
                "diffusion_learning_rate": (3e-4, 1e-3, 3e-3),
                "latent_noise": (0.01, 0.1),
            }
        },
    )
    return config
