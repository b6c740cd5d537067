"""Suite `sample`: drawing latents from P-diff, over a few timesteps in place of all 1,000.

The competitors work as the published code does, one network after the other: our own denoiser, and PyTorch's with the
same layers. Decoding, which takes about as long as one timestep, is left out.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np

from jaxweights import generators, parallel
from jaxweights.generators.pdiff import PDiff
from jaxweights.nn.leaves import Leaves
from jaxweights.population import Population
from jaxweights.spec import WeightSpec
from launch.benchmarks import measure
from launch.benchmarks.measure import Case, Work

SAMPLES, TIMESTEPS = 200, 5
LAYERS, WIDTH = 4, 512  # of the vectors: weights and biases of two normalisations


def cases() -> list[Case]:
    """P-diff at the demo's and at the published size, in float32 and bfloat16; steps of single networks per second."""
    found = []
    sizes = (("demo size", pdiff("pdiff_small")), ("published size", pdiff("pdiff_published")))
    for size, config in sizes:
        for dtype in ("float32", "bfloat16"):
            build = {
                "ours": functools.partial(_ours, config, dtype),
                "plain_jax": functools.partial(_one_at_a_time, config, dtype),
                "torch_loop": functools.partial(_torch, config, dtype),
            }
            name = f"P-diff, {SAMPLES} samples, {TIMESTEPS} timesteps ({size}, {dtype})"
            found.append(Case(name, "network-steps/s", flop(config), build))
    return found


def vectors() -> WeightSpec:
    """Meaning of the vectors."""
    leaves = Leaves()
    for i in range(LAYERS):
        leaves.vector(f"layer{i}", WIDTH)
    return leaves.spec()


def pdiff(preset: str) -> PDiff:
    """The generator of a preset."""
    generator = generators.build("pdiff", generators.preset(preset))
    assert isinstance(generator, PDiff)
    return generator


def flop(config: PDiff) -> float:
    """FLOP of the denoiser's convolutions, for one network and step."""
    widths = (1, *config.denoiser_channels, *config.denoiser_channels[-2::-1], 1)
    pairs = sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))
    return 2.0 * config.kernel_size * config.latent_dim * pairs


def untrained(config: PDiff, dtype: str) -> tuple[PDiff, dict[str, Any]]:
    """An untrained generator and its state; the cost is that of a trained one."""
    generator = config.replace(num_timesteps=TIMESTEPS, dtype=dtype)
    rows = np.random.default_rng(0).normal(size=(config.batch_size, LAYERS * WIDTH)).astype(np.float32)
    _, constants = generator.prepare(Population.create(rows, vectors()))
    state: dict[str, Any] = {"constants": constants}
    for stage in generator.stages():
        params, model_state = jax.jit(stage.init)(jax.random.key(0), state)
        state = {**state, stage.name: {"params": params, "model_state": model_state}}
    return generator, state


def _ours(config, dtype) -> Work:
    generator, state = untrained(config, dtype)
    mesh = parallel.make_mesh()
    state = jax.device_put(state, parallel.replicated(mesh))
    keys = jax.random.split(jax.random.key(1), SAMPLES)
    program = parallel.map_rows(generator.sample_latents, mesh)

    def run(times):
        for _ in range(times):
            jax.block_until_ready(program(state, keys))

    return Work(run, lambda times: times * float(SAMPLES * TIMESTEPS))


def _one_at_a_time(config, dtype) -> Work:
    generator, state = untrained(config, dtype)
    program = jax.jit(generator.sample_latents)

    def run(times):
        for i in range(times):
            jax.block_until_ready(program(state, jax.random.split(jax.random.key(i), 1)))

    return Work(run, lambda times: times * float(TIMESTEPS))


def _torch(config, dtype) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    denoiser = torch_denoiser(torch, config).eval()
    betas = torch.linspace(1e-4, 0.02, TIMESTEPS)
    bars = torch.cumprod(1 - betas, dim=0)
    variances = betas * (1 - torch.cat([torch.ones(1), bars[:-1]])) / (1 - bars)

    def run(times):
        with torch.no_grad(), torch.autocast(measure.torch_device(), torch.bfloat16, enabled=dtype == "bfloat16"):
            for _ in range(times):
                z = torch.randn(1, config.latent_dim)
                for t in reversed(range(TIMESTEPS)):
                    noise = denoiser(z, torch.full((1,), t))
                    z = (z - betas[t] / (1 - bars[t]).sqrt() * noise) / (1 - betas[t]).sqrt()
                    z = z + (t > 0) * variances[t].sqrt() * torch.randn_like(z)

    return Work(run, lambda times: times * float(TIMESTEPS))


def torch_denoiser(torch, config):
    """PyTorch's denoiser, with the layers of the published one."""
    nn, size = torch.nn, config.kernel_size
    widths = (1, *config.denoiser_channels, *config.denoiser_channels[-2::-1])
    depth = len(config.denoiser_channels)

    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            latent = config.latent_dim
            self.time = nn.Sequential(nn.Linear(256, latent), nn.SiLU(), nn.Linear(latent, latent))
            self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(128) / 128))
            self.convs = nn.ModuleList(
                nn.Conv1d(a, b, size, padding=size // 2) for a, b in zip(widths, (*widths[1:], 1), strict=True)
            )
            self.norms = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(b), nn.ELU()) for b in widths[1:])

        def forward(self, x, t):
            phases = t[:, None].float() * self.frequencies
            time = self.time(torch.cat([phases.cos(), phases.sin()], dim=1))[:, None]
            x, outputs = x[:, None], []
            for i, conv in enumerate(self.convs):
                if i > depth:
                    x = x + outputs[2 * depth - 1 - i]
                x = conv(x + time)
                if i < len(self.norms):
                    x = self.norms[i](x)
                    outputs.append(x)
            return x[:, 0]

    return Denoiser()
