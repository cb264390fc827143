"""Training of the runs that the study of the monitor is made on."""

import sysconfig
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from mfgjax.monitor.jax_front import routing_sums

LAYERS, WIDTH, HIDDEN = 4, 16, 16
BATCH, LENGTH = 8, 32
STEPS, EVERY, BREAK = 2400, 4, 1200
VOCABULARY = 128
SHAPES = ((8, 1), (8, 2), (16, 2))
KINDS = ("healthy", "alpha to 0", "bias reset", "hot expert", "router rate x 30", "dead output")
HEALTHY, BROKEN = 20, 4
"""Runs per shape: healthy ones, and of each kind of collapse."""


def corpus(kind: str, size: int = 400_000) -> np.ndarray:
    """Bytes of the standard library's source, or a Markov chain of as many symbols."""
    if kind == "source":
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        joined = b"".join(path.read_bytes() for path in files)[:size]
        return np.minimum(np.frombuffer(joined, np.uint8), VOCABULARY - 1).astype(np.int32)
    draw = np.random.default_rng(0)
    table = draw.integers(0, VOCABULARY, (VOCABULARY, 4))
    choice, found = draw.integers(0, 4, size), np.zeros(size, np.int32)
    for i in range(1, size):
        found[i] = table[found[i - 1], choice[i]]
    return found


def initial(key, experts: int) -> dict:
    keys = jax.random.split(key, 6)

    def normal(i, *shape, scale):
        return scale * jax.random.normal(keys[i], shape, jnp.float32)

    return {
        "embed": normal(0, VOCABULARY, WIDTH, scale=1.0),
        "mix": normal(1, LAYERS, 4, WIDTH, scale=0.5),
        "router": normal(2, LAYERS, WIDTH, experts, scale=0.25),
        "up": normal(3, LAYERS, experts, WIDTH, HIDDEN, scale=WIDTH**-0.5),
        "down": normal(4, LAYERS, experts, HIDDEN, WIDTH, scale=HIDDEN**-0.5),
        "head": normal(5, WIDTH, VOCABULARY, scale=WIDTH**-0.5),
    }


def forward(params, bias, offset, tokens, top_k: int):
    """Mean loss, auxiliary loss per layer, and logits and choices of every layer."""
    x = params["embed"][tokens]
    aux, routing = [], []
    for layer in range(LAYERS):
        padded = jnp.pad(x, ((0, 0), (3, 0), (0, 0)))
        seen = [padded[:, lag : lag + x.shape[1]] for lag in range(4)]
        mixed = jnp.stack([params["mix"][layer, lag] * seen[lag] for lag in range(4)]).sum(0)
        h = mixed * jax.lax.rsqrt((mixed**2).mean(-1, keepdims=True) + 1e-6)
        h = h.reshape(-1, WIDTH)
        logits = h @ params["router"][layer] + offset[layer]
        experts = logits.shape[-1]
        _, chosen = jax.lax.top_k(logits + bias[layer], top_k)
        used = jax.nn.one_hot(chosen, experts, dtype=logits.dtype).sum(-2)
        probability = jax.nn.softmax(logits, -1)
        weight = used * probability
        weight = weight / weight.sum(-1, keepdims=True)
        inner = jax.nn.relu(jnp.einsum("td,mdf->tmf", h, params["up"][layer]))
        out = jnp.einsum("tmf,mfd->td", inner * weight[..., None], params["down"][layer])
        x = x + out.reshape(x.shape)
        load = used.mean(0) / top_k
        aux.append(experts * (load * probability.mean(0)).sum())
        routing.append((logits, chosen))
    scores = jax.nn.log_softmax(x[:, :-1] @ params["head"], -1)
    loss = -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean()
    return loss, jnp.stack(aux), routing


@partial(jax.jit, static_argnames=("experts", "top_k"))
def train(setting: dict, texts, experts: int, top_k: int):
    """One run: its setting is traced, so runs of one shape are a batch."""
    key = jax.random.key(setting["seed"])
    params = initial(key, experts)
    kind = setting["kind"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    uniform = jnp.float32(1 / experts)

    def step(state, t):
        params, first, second, bias = state
        broken = t >= BREAK
        alpha = jnp.where((kind == 1) & broken, 0.0, setting["alpha"])
        ramp = jnp.clip((t - BREAK) / 40.0, 0.0, 1.0)
        offset = jnp.zeros((LAYERS, experts)).at[1, 0].set(jnp.where(kind == 3, 3 * ramp, 0.0))
        starts = jax.random.randint(
            jax.random.fold_in(key, t), (BATCH,), 0, texts.shape[1] - LENGTH
        )
        index = starts[:, None] + jnp.arange(LENGTH)
        tokens = texts[setting["data"]][index]

        def total(params):
            loss, aux, routing = forward(params, bias, offset, tokens, top_k)
            return loss + alpha * aux.sum(), (loss, routing)

        gradient, (loss, routing) = jax.grad(total, has_aux=True)(params)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g**2, second, gradient)
        rate = setting["rate"] * jnp.minimum(1.0, (t + 1) / 50)
        moved = {
            name: params[name]
            - rate
            * jnp.where((name == "router") & (kind == 4) & broken, 30.0, 1.0)
            * (first[name] / (1 - 0.9 ** (t + 1)))
            / (jnp.sqrt(second[name] / (1 - 0.98 ** (t + 1))) + 1e-8)
            for name in params
        }
        alive = jnp.where((kind == 5) & broken, 0.0, 1.0)
        moved["down"] = moved["down"].at[1, 0].multiply(alive)
        sums = [routing_sums(z, c) for z, c in routing]
        count = jnp.stack([s["count"] for s in sums])
        share = count / count.sum(-1, keepdims=True)
        bias = bias + setting["bias_step"] * jnp.sign(uniform - share)
        bias = jnp.where((kind == 2) & (t == BREAK), 0.0, bias)
        kept = {name: jnp.stack([s[name] for s in sums]) for name in KEPT}
        kept["bias"], kept["loss"] = bias, loss
        kept["norm"] = jnp.sqrt((moved["down"] ** 2).sum((-1, -2)))
        return (moved, first, second, bias), kept

    def sampled(state, t):
        state, _ = jax.lax.scan(step, state, t + jnp.arange(EVERY - 1))
        return step(state, t + EVERY - 1)

    start = (params, zeros, zeros, jnp.zeros((LAYERS, experts), jnp.float32))
    return jax.lax.scan(sampled, start, jnp.arange(0, STEPS, EVERY))[1]


KEPT = ("count", "logit_sum", "centred_square_sum")


def settings(experts: int, top_k: int) -> dict[str, np.ndarray]:
    """Runs of one shape: healthy ones first, then each kind of collapse."""
    kind = np.repeat(np.arange(len(KINDS)), [HEALTHY] + [BROKEN] * (len(KINDS) - 1))
    place = np.arange(len(kind))
    by_bias = np.where(kind == 1, False, np.where(kind == 2, True, place % 2 == 1))
    return {
        "kind": kind,
        "seed": 1000 * experts + 100 * top_k + place,
        "alpha": np.where(by_bias, 0.0, 0.02).astype(np.float32),
        "bias_step": np.where(by_bias, 0.01, 0.0).astype(np.float32),
        "rate": np.array([2e-3, 5e-3], np.float32)[place // 2 % 2],
        "data": place // 4 % 2,
    }


def trained(folder: Path, console: Console) -> list[tuple[dict, dict, int, int]]:
    """Settings and sums of every shape, from FOLDER or trained now."""
    texts = jnp.stack([jnp.asarray(corpus(kind)) for kind in ("source", "chain")])
    found = []
    folder.mkdir(parents=True, exist_ok=True)
    for experts, top_k in SHAPES:
        setting, path = settings(experts, top_k), folder / f"m{experts}k{top_k}.npz"
        if not path.exists():
            console.print(f"training {len(setting['kind'])} runs of top-{top_k} of {experts}")
            parts = []
            for start in range(0, len(setting["kind"]), 8):
                part = {name: jnp.asarray(v[start : start + 8]) for name, v in setting.items()}
                run = jax.vmap(lambda s, e=experts, k=top_k: train(s, texts, e, k))(part)
                parts.append(jax.tree.map(np.asarray, run))
                console.print(f"  {start + len(part['kind'])} done")
            whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
            np.savez_compressed(path, allow_pickle=False, **whole)
        found.append((setting, dict(np.load(path)), experts, top_k))
    return found
