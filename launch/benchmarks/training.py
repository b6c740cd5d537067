"""Suite `training`: training steps of HyperDiffusion and of both stages of P-diff, in float32.

HyperDiffusion has the sizes of its small preset, on occupancy networks of 36,737 parameters; P-diff those of its small
and of its published preset, on vectors of 2,048 values, the last two normalisations of ResNet-18. The PyTorch
competitors have the layers, the optimizer and the noise of the published code, every tensor embedded by a layer of its
own. They draw their batches from memory, where the published code has loaders, and none of them logs.
"""

from __future__ import annotations

import functools

import numpy as np

from jaxweights import generators
from jaxweights.generators.hyperdiffusion import HyperDiffusion
from jaxweights.generators.pdiff import PDiff
from jaxweights.nn.transformer import TokenLayout
from jaxweights.population import Population
from launch.benchmarks import fields, gpt, measure, sample
from launch.benchmarks.measure import Case, Work

ROWS = 512


def cases() -> list[Case]:
    """Steps per second."""
    small = generators.build("hyperdiffusion", generators.preset("hyperdiffusion_small"))
    assert isinstance(small, HyperDiffusion)
    build = {"ours": functools.partial(_train, small), "torch_loop": functools.partial(_torch_transformer, small)}
    flop = 3 * small.batch_size * _transformer_flop(small)
    found = [Case(f"HyperDiffusion, batch {small.batch_size} (small)", "steps/s", flop, build)]
    for size in ("small", "published"):
        pdiff = sample.pdiff(f"pdiff_{size}")
        stages = (
            ("autoencoder", 3 * _autoencoder_flop(pdiff), _torch_autoencoder),
            ("denoiser", 3 * sample.flop(pdiff) + _encoder_flop(pdiff), _torch_denoiser),
        )
        for number, (stage, flop, theirs) in enumerate(stages):
            build = {
                "ours": functools.partial(_train, pdiff, number),
                "torch_loop": functools.partial(theirs, pdiff),
            }
            name = f"P-diff's {stage}, batch {pdiff.batch_size} ({size})"
            found.append(Case(name, "steps/s", pdiff.batch_size * flop, build))
    return found


def _train(generator, stage: int = 0) -> Work:
    return measure.training(generator, _population(generator), float, stage)


def _population(generator) -> Population:
    spec = fields.net().spec if isinstance(generator, HyperDiffusion) else sample.vectors()
    rows = np.random.default_rng(0).normal(size=(ROWS, spec.num_params)).astype(np.float32)
    return Population.create(rows, spec)


def _transformer_flop(config: HyperDiffusion) -> float:
    """FLOP of products of one vector's forward pass; of the last block's output the timestep's token is not used."""
    width, params = config.width, fields.net().spec.num_params
    tokens = TokenLayout(fields.net().spec, "tensor", 0).num_tokens + 1
    block = 24.0 * width**2 * tokens + 4.0 * width * tokens**2
    unread = 18.0 * width**2 + 4.0 * width * tokens
    return config.blocks * block - unread + 4.0 * width * params


def _encoder_flop(config: PDiff) -> float:
    length, flop, before = sample.vectors().num_params, 0.0, 1
    for channels in config.autoencoder_channels:
        length //= 2
        flop, before = flop + 2.0 * config.kernel_size * before * channels * length, channels
    return flop + 2.0 * before * length * config.latent_dim + 2.0 * config.latent_dim**2


def _autoencoder_flop(config: PDiff) -> float:
    """The decoder mirrors the encoder, but for its last convolutions at the full length."""
    first = config.autoencoder_channels[0]
    last = 2.0 * config.kernel_size * sample.vectors().num_params * first
    return 2 * _encoder_flop(config) - 2.0 * config.latent_dim**2 + (first // 2) * last


def _torch_transformer(config: HyperDiffusion) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    nn, width = torch.nn, config.width
    sizes = TokenLayout(fields.net().spec, "tensor", 0).sizes

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            inputs = [*sizes, 2 * config.num_frequencies + 1]
            self.embed = nn.ModuleList([nn.Linear(size, width, bias=False) for size in inputs])
            self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
            self.positions = nn.Parameter(torch.zeros(len(inputs), width))
            self.blocks = nn.Sequential(*(gpt.torch_block(torch, width, config.heads) for _ in range(config.blocks)))
            self.unembed = nn.ModuleList([nn.Linear(width, size, bias=False) for size in sizes])
            frequencies = 2 ** torch.linspace(0, config.max_frequency_log2, config.num_frequencies)
            self.register_buffer("frequencies", frequencies)

        def forward(self, x, t):
            phases = t[:, None] * self.frequencies
            parts = [*x.split(sizes, dim=1), torch.cat([phases.sin(), phases.cos(), t[:, None]], dim=1)]
            tokens = torch.stack([f(part) for f, part in zip(self.embed, parts, strict=True)], dim=1)
            tokens = self.norm_out(self.blocks(self.norm_in(tokens) + self.positions))
            return torch.cat([f(tokens[:, i]) for i, f in enumerate(self.unembed)], dim=1)

    model, average, decay = Transformer(), Transformer(), config.ema_decay or 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    weights = torch.as_tensor(_population(config).weights)
    bars = torch.cumprod(1 - torch.linspace(config.beta_start, config.beta_end, config.num_timesteps), dim=0)

    def step():
        x = weights[torch.randint(ROWS, (config.batch_size,))]
        t = torch.randint(config.num_timesteps, (config.batch_size,))
        bar = bars[t][:, None]
        found = model(bar.sqrt() * x + (1 - bar).sqrt() * torch.randn_like(x), t.float())
        optimizer.zero_grad()
        torch.square(found - x).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for theirs, ours in zip(average.parameters(), model.parameters(), strict=True):
                theirs.mul_(decay).add_(ours, alpha=1 - decay)

    return _loop(step)


def _torch_autoencoder(config: PDiff) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    encoder, decoder = _torch_encoder(torch, config), _torch_decoder(torch, config)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.autoencoder_learning_rate, weight_decay=config.weight_decay)
    weights = torch.as_tensor(_population(config).weights)

    def step():
        x = weights[torch.randint(ROWS, (config.batch_size,))]
        x = x + config.input_noise * torch.randn_like(x)
        z = encoder(x[:, None])
        found = decoder(z + config.latent_noise * torch.randn_like(z))[:, 0]
        optimizer.zero_grad()
        torch.square(found - x).mean().backward()
        optimizer.step()

    return _loop(step)


def _torch_denoiser(config: PDiff) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    encoder, model = _torch_encoder(torch, config), sample.torch_denoiser(torch, config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.diffusion_learning_rate, weight_decay=config.weight_decay
    )
    weights = torch.as_tensor(_population(config).weights)
    bars = torch.cumprod(1 - torch.linspace(config.beta_start, config.beta_end, config.num_timesteps), dim=0)

    def step():
        with torch.no_grad():
            z = encoder(weights[torch.randint(ROWS, (config.batch_size,))][:, None])
        t = torch.randint(config.num_timesteps, (config.batch_size,))
        bar, noise = bars[t][:, None], torch.randn_like(z)
        found = model(bar.sqrt() * z + (1 - bar).sqrt() * noise, t)
        optimizer.zero_grad()
        torch.square(found - noise).mean().backward()
        optimizer.step()

    return _loop(step)


def _torch_encoder(torch, config: PDiff):
    nn, size, layers, before = torch.nn, config.kernel_size, [], 1
    for channels in config.autoencoder_channels:
        layers += [nn.Conv1d(before, channels, size, stride=2, padding=size // 2), nn.BatchNorm1d(channels)]
        layers, before = [*layers, nn.LeakyReLU()], channels
    flat = before * (sample.vectors().num_params >> len(config.autoencoder_channels))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(flat, config.latent_dim), nn.Linear(config.latent_dim, config.latent_dim)
    )


def _torch_decoder(torch, config: PDiff):
    nn, size, channels = torch.nn, config.kernel_size, config.autoencoder_channels[::-1]
    length = sample.vectors().num_params >> len(channels)
    layers = [nn.Linear(config.latent_dim, channels[0] * length), nn.Unflatten(1, (channels[0], length))]
    for before, after in zip(channels, (*channels[1:], channels[-1]), strict=True):
        layers.append(nn.ConvTranspose1d(before, after, size, stride=2, padding=size // 2, output_padding=1))
        layers += [nn.BatchNorm1d(after), nn.ELU()]
    return nn.Sequential(*layers, nn.Conv1d(channels[-1], 1, size, padding=size // 2))


def _loop(step) -> Work:
    def run(times):
        for _ in range(times):
            step()

    return Work(run, float)
