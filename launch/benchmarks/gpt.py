"""Suite `gpt`: G.pt's training and sampling, and the aligned distances of its audit.

The PyTorch competitors have the structure of the published code. Its transformer embeds all 26 tokens one after the
other at every step, with queries, keys and values from three layers; sampling goes through micro-batches of 16
networks; distances come from `torch.cdist` of one batch of training networks broadcast against all others, which writes
both operands out (620 MiB per training network of the published zoo), and SciPy's assignment of every pair in a pool of
processes. Training leaves out the permutation of hidden units, which the published code does in loader processes; ours
includes it.

Aligned networks are independent normal vectors, the harder case for our search: on 2,000 trained MNIST networks its
bounds leave a fifth of the assignments and it is 1.3 times as fast. The published method takes the same for all.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import weakref

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxweights import generators, parallel
from jaxweights.auditing.alignment import hidden_layer
from jaxweights.generators.gpt import GPT
from jaxweights.nn import transformer
from jaxweights.population import Population
from launch.benchmarks import measure, networks
from launch.benchmarks.measure import Case, Work

ALIGNED, ALIGNED_BATCH = 2000, 4
SAMPLES, TIMESTEPS, MICRO_BATCH = 64, 8, 16
RUNS, CHECKPOINTS, BATCH = 64, 8, 64
SIZES = {
    "96 x 3": {"width": 96, "blocks": 3, "heads": 4},
    "256 x 4": {"width": 256, "blocks": 4, "heads": 8},
    "512 x 6": {"width": 512, "blocks": 6, "heads": 8},
}
# A quarter of the published batch, so that both competitors fit into one GPU.
PUBLISHED = {"width": 1536, "blocks": 12, "heads": 16, "batch_size": 256}
_FREQUENCIES, _SCALARS = 128, 4
_CLIP, _DECAY, _EMA = 0.75, 0.1, 0.9999


def cases() -> list[Case]:
    """Aligned pairs, network-steps of sampling, and pairs of checkpoints trained on, per second."""
    units = networks.MNIST.net.spec.units(0)
    per_pair = 2.0 * units[0].shape[0] ** 2 * units[0].shape[1]
    aligned = {"ours": functools.partial(_aligned, units), "torch_loop": functools.partial(_torch_aligned, units)}
    found = [Case(f"aligned nearest, {ALIGNED} x {ALIGNED}, MNIST MLP", "pairs/s", per_pair, aligned)]
    kinds = (
        (f"sampling, {SAMPLES} networks", "network-steps/s", 1, _sample, _torch_sample),
        (f"sampling, {SAMPLES} networks, bfloat16", "network-steps/s", 1, _sample_bf16, _torch_sample_bf16),
        (f"training, batch {BATCH}", "pairs/s", 3, _train, _torch_train),
        (f"training, batch {BATCH}, bfloat16", "pairs/s", 3, _train_bf16, _torch_train_bf16),
    )
    for kind, unit, passes, ours, theirs in kinds:
        for size, settings in SIZES.items():
            build = {"ours": functools.partial(ours, settings), "torch_loop": functools.partial(theirs, settings)}
            found.append(Case(f"{kind} ({size} blocks)", unit, passes * _forward_flop(settings), build))
    return found if jax.default_backend() == "cpu" else found + _published()


def _published() -> list[Case]:
    """Training at the published size, which takes minutes a step on a CPU."""
    found = []
    for dtype in ("float32", "bfloat16"):
        settings = {**PUBLISHED, "dtype": dtype}
        build = {"ours": functools.partial(_train, settings), "torch_loop": functools.partial(_torch_train, settings)}
        name = f"training, batch {PUBLISHED['batch_size']}, {dtype} (1536 x 12 blocks)"
        found.append(Case(name, "pairs/s", 3 * _forward_flop(settings), build))
    return found


def _layout() -> transformer.TokenLayout:
    return transformer.TokenLayout(networks.MNIST.net.spec, "chunk", 1000)


def _forward_flop(settings) -> float:
    """FLOP of one network through the transformer, without the tokens that do not change during sampling."""
    width, tokens = settings["width"], _layout().num_tokens
    both = 2 * tokens + _SCALARS
    block = 24.0 * width**2 * both + 4.0 * width * both**2
    # Of the last block's output only the tokens of the noised vector are used.
    unread = (18.0 * width**2 + 4.0 * width * both) * (both - tokens)
    return settings["blocks"] * block - unread + 4.0 * width * _layout().num_params


@functools.cache
def _training() -> Population:
    spec, rng = networks.MNIST.net.spec, np.random.default_rng(0)
    run, step = np.divmod(np.arange(RUNS * CHECKPOINTS), CHECKPOINTS)
    weights = rng.normal(size=(len(run), spec.num_params)).astype(np.float32)
    return Population.create(weights, spec, run=run, step=step, loss=2.3 / (1 + step))


def _generator(settings, **changes) -> GPT:
    generator = generators.build("gpt", {"kind": "gpt", "num_timesteps": TIMESTEPS, **settings, **changes})
    assert isinstance(generator, GPT)
    return generator


def _sample(settings) -> Work:
    generator = _generator(settings)
    _, constants = generator.prepare(_training())
    (stage,) = generator.stages()
    params, model_state = jax.jit(stage.init)(jax.random.key(0), {"constants": constants})
    state = {"constants": constants, stage.name: {"params": params, "model_state": model_state}}
    mesh = parallel.make_mesh()
    state = jax.device_put(state, parallel.replicated(mesh))
    inputs = generator.inputs(state, jax.random.split(jax.random.key(1), SAMPLES), _training())
    program = parallel.map_rows(generator.sample, mesh)

    def run(times):
        for _ in range(times):
            jax.block_until_ready(program(state, inputs))

    return Work(run, lambda times: times * float(SAMPLES * TIMESTEPS))


def _sample_bf16(settings) -> Work:
    return _sample({**settings, "dtype": "bfloat16"})


def _train(settings) -> Work:
    generator = _generator({"batch_size": BATCH, **settings}, num_timesteps=1000)
    return measure.training(generator, _training(), lambda times: times * float(generator.batch_size))


def _train_bf16(settings) -> Work:
    return _train({**settings, "dtype": "bfloat16"})


def _torch_train_bf16(settings) -> Work | None:
    return _torch_train({**settings, "dtype": "bfloat16"})


def _torch_sample_bf16(settings) -> Work | None:
    return _torch_sample(settings, bfloat16=True)


def _torch_sample(settings, bfloat16: bool = False) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    model = _torch_transformer(torch, settings).eval()
    betas = torch.linspace(1e-4, 0.02, TIMESTEPS)
    bars = torch.cumprod(1 - betas, dim=0)
    before = torch.cat([torch.ones(1), bars[:-1]])
    starts = torch.as_tensor(_training().weights[:SAMPLES])
    metric = torch.rand(len(starts))

    def run(times):
        with torch.no_grad(), torch.autocast(measure.torch_device(), torch.bfloat16, enabled=bfloat16):
            for _ in range(times):
                for start, loss in zip(starts.split(MICRO_BATCH), metric.split(MICRO_BATCH), strict=True):
                    x = torch.randn_like(start)
                    for t in reversed(range(TIMESTEPS)):
                        time = torch.full((len(start),), t)
                        clean = model(x, start, time, torch.zeros_like(loss), loss)
                        x = clean * betas[t] * before[t].sqrt() + x * (1 - before[t]) * (1 - betas[t]).sqrt()
                        x = x / (1 - bars[t]) + (t > 0) * betas[t].sqrt() * torch.randn_like(x)

    return Work(run, lambda times: times * float(SAMPLES * TIMESTEPS))


def _torch_train(settings) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    batch, bfloat16 = settings.get("batch_size", BATCH), settings.get("dtype") == "bfloat16"
    model, average = (_torch_transformer(torch, settings) for _ in range(2))
    decayed = [p for name, p in model.named_parameters() if p.ndim == 2 and name != "positions"]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or name == "positions"]
    groups = [{"params": decayed, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=4e-4)
    weights = torch.as_tensor(_training().weights).view(RUNS, CHECKPOINTS, -1)
    metric = torch.as_tensor(_training().records["loss"]).float().view(RUNS, CHECKPOINTS)
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)

    def step():
        run = torch.randint(RUNS, (batch,))
        spacing = 1 + (torch.rand(batch) * (CHECKPOINTS - 1)).long()
        first = (torch.rand(batch) * (CHECKPOINTS - spacing)).long()
        start, target = weights[run, first], weights[run, first + spacing]
        t = torch.randint(1000, (batch,))
        bar = bars[t][:, None]
        noised = bar.sqrt() * target + (1 - bar).sqrt() * torch.randn_like(target)
        with torch.autocast(measure.torch_device(), torch.bfloat16, enabled=bfloat16):
            found = model(noised, start, t, metric[run, first + spacing], metric[run, first])
        optimizer.zero_grad()
        torch.square(found - target).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
        with torch.no_grad():
            for theirs, ours in zip(average.parameters(), model.parameters(), strict=True):
                theirs.mul_(_EMA).add_(ours, alpha=1 - _EMA)

    def run(times):
        for _ in range(times):
            step()

    return Work(run, lambda times: times * float(batch))


def torch_block(torch, width: int, heads: int):
    """A pre-norm block with the published structure."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2)])
            self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
            self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x):
            h = self.norms[0](x)
            q, k, v = (f(h).view(len(x), -1, heads, width // heads).transpose(1, 2) for f in (self.q, self.k, self.v))
            weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(width // heads), dim=-1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(x.shape))
            return x + self.dense(self.norms[1](x))

    return Block()


def _torch_transformer(torch, settings):
    """The transformer with the published structure."""
    nn, width, heads = torch.nn, settings["width"], settings["heads"]
    sizes = _layout().sizes

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            inputs = [*sizes, *sizes, *[2 * _FREQUENCIES + 1] * _SCALARS]
            self.embed = nn.ModuleList([nn.Linear(size, width, bias=False) for size in inputs])
            self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
            self.positions = nn.Parameter(torch.zeros(len(inputs), width))
            self.blocks = nn.Sequential(*(torch_block(torch, width, heads) for _ in range(settings["blocks"])))
            self.unembed = nn.ModuleList([nn.Linear(width, size, bias=False) for size in sizes])
            self.register_buffer("frequencies", 2 ** torch.linspace(0, 14, _FREQUENCIES))

        def forward(self, x, start, t, asked, metric):
            scalars = torch.stack([t.float(), asked - metric, asked, metric], dim=1)[:, :, None]
            phases = scalars * self.frequencies
            features = torch.cat([phases.sin(), phases.cos(), scalars], dim=2).unbind(dim=1)
            parts = [*x.split(sizes, dim=1), *start.split(sizes, dim=1), *features]
            tokens = torch.stack([f(part) for f, part in zip(self.embed, parts, strict=True)], dim=1)
            tokens = self.norm_out(self.blocks(self.norm_in(tokens) + self.positions))
            return start + torch.cat([f(tokens[:, i]) for i, f in enumerate(self.unembed)], dim=1)

    return Transformer()


@functools.cache
def _networks() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ALIGNED, networks.MNIST.net.spec.num_params)).astype(np.float32)


def _align(units) -> None:
    ids = np.arange(ALIGNED)
    hidden_layer.aligned_nearest(
        _networks(), _networks(), *units, query_groups=ids, reference_groups=ids, mesh=parallel.make_mesh()
    )


def _aligned(units) -> Work:
    peak_mib = None
    if jax.default_backend() == "cpu":  # a GPU serves one process best, and has a memory of its own
        with _processes(1) as pool:
            peak_mib = pool.apply(_aligned_memory, (units,))

    def run(times):
        for _ in range(times):
            _align(units)

    return Work(run, lambda times: times * float(ALIGNED**2), peak_mib=peak_mib, fixed=True)


def _aligned_memory(units) -> float | None:
    """MiB that one search adds to the memory of this process, which must be new; None where it is unknown."""
    parallel.configure()
    _networks()
    parallel.make_mesh()
    before = _resident_mib("VmRSS")
    _align(units)
    peak = _resident_mib("VmHWM")
    return None if before is None or peak is None else peak - before


def _resident_mib(field: str) -> float | None:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))
    except (OSError, StopIteration):
        return None


def _processes(count: int):
    # Not forked: JAX has threads, and a fork starts with its parent's memory.
    return multiprocessing.get_context("spawn").Pool(count)


def _torch_aligned(units) -> Work | None:
    """A batch of training networks against all; the rate of a few batches stands for all."""
    torch = measure.torch()
    if torch is None:
        return None
    grouped = torch.as_tensor(_networks()[:, units[0]])
    pool = _processes(parallel.num_cores())

    def run(times):
        for i in range(times):
            batch = grouped[i * ALIGNED_BATCH % ALIGNED :][:ALIGNED_BATCH]
            costs = (torch.cdist(batch[:, None], grouped[None]) ** 2).cpu().numpy()
            pool.map(_assign, costs.reshape(-1, *costs.shape[2:]))

    weakref.finalize(run, pool.terminate)
    return Work(run, lambda times: times * float(ALIGNED_BATCH * ALIGNED))


def _assign(costs: np.ndarray) -> tuple[np.ndarray, float]:
    rows, columns = linear_sum_assignment(costs.T)
    return columns, costs.T[rows, columns].sum()
