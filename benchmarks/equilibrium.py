"""Equilibria per second, with what each solver leaves unsolved.

    python -m benchmarks.equilibrium --json FILE [--quick]

Games: q ~ N(0, 0.6) logits, congestion log-uniform in [0.1, 200], temperature 1. Residuals are
recomputed in float64 by numpy from each solver's loads. Times: the best of several runs after a
warm-up, on the wall clock and in CPU seconds of this process (the fairer one on a busy machine).
"""

import os
import time
from typing import Annotated

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")

import jax
import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.equilibrium_peers import HOST_PEERS, JAX_PEERS, UNSHARDED, spread_over_devices
from benchmarks.record import JsonFile, keep, table
from mfgjax.equilibrium import solve_equilibria, solve_equilibrium
from mfgjax.game import Game

AS_CALLED = {
    "mfgjax, one vmap": jax.jit(jax.vmap(solve_equilibrium)),
    "mfgjax, solve_equilibria": solve_equilibria,
}
"""What a user calls with a batch, on one device; the other rows are spread over all of them."""
UNSOLVED = {"float64": 1e-8, "float32": 1e-4}  # L1 residual above which a game is unsolved
EXPS, BYTES = 5, 6  # exps per expert of a single-type solve; arrays read or written once


def draw(batch: int, types: int, experts: int, dtype: str) -> Game:
    """The benchmark's games, the same for every solver."""
    rng = np.random.default_rng(0)
    shape = (batch, experts) if types == 1 else (batch, types, experts)
    quality = rng.normal(0, 0.6, shape)
    congestion = 10 ** rng.uniform(-1, np.log10(200), batch)
    weight = None if types == 1 else rng.dirichlet(np.ones(types), batch)
    return Game(jnp.asarray(quality, dtype), congestion, 1.0, weight)


def residuals(game: Game, load: np.ndarray) -> np.ndarray:
    """`|S(f) - f|_1` of each load, float64, numpy."""
    load = np.asarray(load, np.float64)
    price = np.asarray(game.congestion, np.float64)[:, None] * load
    quality = np.asarray(game.quality, np.float64)
    logits = quality - (price if game.weight is None else price[:, None, :])
    answer = np.exp(logits - logits.max(-1, keepdims=True))
    answer /= answer.sum(-1, keepdims=True)
    if game.weight is not None:
        answer = np.einsum("bk,bki->bi", np.asarray(game.weight, np.float64), answer)
    return np.nan_to_num(np.abs(answer - load).sum(-1), nan=2.0)


def row(solver: str, what: str, game: Game, seconds, cpu, compile_s, load, memory) -> dict:
    """One line of the table."""
    dtype, batch = str(game.quality.dtype), game.quality.shape[0]
    left = residuals(game, load)
    return {
        "solver": solver,
        "what": what,
        "dtype": dtype,
        "types": game.types,
        "experts": game.experts,
        "batch": batch,
        "per_second": batch / seconds,
        "per_cpu_second": batch / cpu,
        "compile_s": compile_s,
        "unsolved": float((left > UNSOLVED[dtype]).mean()),
        "largest_residual": float(left.max()),
        "memory_mb": memory,
    }


def timed(call, repeats: int) -> tuple[float, float]:
    """Best wall-clock and best CPU seconds of `call`."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def jax_row(solver: str, what: str, solve_one, game: Game, repeats: int) -> dict:
    """A JAX solver of one game, spread over all devices."""
    batch, sharded = game.quality.shape[0], solver not in UNSHARDED
    mapped = spread_over_devices(solve_one, batch, game.experts, sharded=sharded)
    return batched_row(solver, what, mapped, game, repeats)


def batched_row(solver: str, what: str, mapped, game: Game, repeats: int) -> dict:
    """A jitted solver of a batch: compile apart from run, memory from the compiler's own plan."""
    started = time.perf_counter()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        compiled = mapped.lower(game).compile()
    compile_s = time.perf_counter() - started
    plan = compiled.memory_analysis()
    assert plan is not None
    planned = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    out = jax.block_until_ready(compiled(game))
    wall, cpu = timed(lambda: compiled(game), repeats)
    load = out.load if hasattr(out, "load") else out[0] if isinstance(out, tuple) else out
    return row(solver, what, game, wall, cpu, compile_s, load, planned / 2**20)


def host_row(solver: str, solve_one, game: Game) -> dict:
    """A peer that solves one game at a time on the host."""
    quality, congestion = np.asarray(game.quality), np.asarray(game.congestion)
    solve_one(quality[0], float(congestion[0]))
    wall, cpu, loads = time.perf_counter(), time.process_time(), []
    for q, gamma in zip(quality, congestion, strict=True):
        try:
            loads.append(solve_one(q, float(gamma)))
        except Exception:  # a peer that raises has left this game unsolved; the row says so
            loads.append(np.full_like(q, np.nan))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return row(solver, "value", game, wall, cpu, 0.0, np.stack(loads), float("nan"))


def value_and_gradient(game: Game):
    """Loads, and the gradient of a functional of them in everything (reverse mode)."""

    def functional(game):
        load = solve_equilibrium(game).load
        return (load**2).sum(), load

    gradient, load = jax.grad(functional, has_aux=True)(game)
    return load, gradient


def roofline(result: dict, dtype: str) -> dict:
    """What exps and memory traffic alone would allow, from rates measured in this process."""
    x = jnp.linspace(0.1, 1, 8192, dtype=dtype)
    loop = jax.jit(lambda x: jax.lax.fori_loop(0, 2000, lambda _, y: jnp.exp(-y), x))
    big = jnp.ones(20_000_000, dtype)
    copy = jax.jit(lambda x: x + 1)
    jax.block_until_ready((loop(x), copy(big)))
    exp_rate = 8192 * 2000 / timed(lambda: loop(x), 5)[1]
    bandwidth = 2 * big.nbytes / timed(lambda: copy(big), 5)[1]
    experts = result["experts"]
    by_exp = exp_rate / (EXPS * experts)
    by_bytes = bandwidth / (BYTES * experts * jnp.dtype(dtype).itemsize)
    reached = result["per_cpu_second"] / min(by_exp, by_bytes)
    return {
        "dtype": dtype,
        "exps_per_cpu_second": exp_rate,
        "bytes_per_cpu_second": bandwidth,
        "exps_per_solve": EXPS * experts,
        "bound_by_exps": by_exp,
        "bound_by_bytes": by_bytes,
        "fraction_of_bound": reached,
    }


def run_rows(quick: bool, note) -> list[dict]:
    """Every row of the table, in order; failures stay in it."""
    games, sample, repeats = (2000, 200, 3) if quick else (20_000, 2000, 7)
    rows = []

    def add(new):
        rows.append(new)
        note(new)

    for dtype in ("float64", "float32"):
        for types in (1, 4):
            game = draw(games, types, 64, dtype)
            add(jax_row("mfgjax newton", "value", solve_equilibrium, game, repeats))
            gradient = jax_row(
                "mfgjax newton", "value + gradient", value_and_gradient, game, repeats
            )
            add(gradient)
    for experts in (8, 256) if quick else (8, 256, 1024):
        game = draw(games * 64 // max(64, experts), 1, experts, "float64")
        add(jax_row("mfgjax newton", "value", solve_equilibrium, game, repeats))
    for types in () if quick else (2, 8):
        game = draw(games // 2, types, 64, "float64")
        add(jax_row("mfgjax newton", "value", solve_equilibrium, game, repeats))
    for batch in () if quick else (200, 200_000):
        game = draw(batch, 1, 64, "float64")
        add(jax_row("mfgjax newton", "value", solve_equilibrium, game, repeats))
    many = draw(2048 if quick else 16_384, 4, 64, "float64")
    for name, solve in AS_CALLED.items():
        add(batched_row(name, "value", solve, many, 3))
    for name, peer in JAX_PEERS.items():
        add(jax_row(name, "value", peer, draw(sample, 1, 64, "float64"), 3))
    for name, peer in HOST_PEERS.items():
        add(host_row(name, peer, draw(sample if "scipy" in name else 50, 1, 64, "float64")))
    return rows


def markdown(record: dict) -> str:
    """Every solver, and the ratios that the table is read for."""
    columns = {
        "solver": "solver",
        "computes": "what",
        "dtype": "dtype",
        "K": "types",
        "M": "experts",
        "games": "{batch:,}",
        "solves/s": "{per_second:,.0f}",
        "per CPU-s": "{per_cpu_second:,.0f}",
        "compile s": "{compile_s:.1f}",
        "unsolved": "{unsolved:.2%}",
        "largest residual": "{largest_residual:.1e}",
        "memory MB": lambda row: "-" if row["memory_mb"] is None else f"{row['memory_mb']:,.0f}",
    }
    summary = "\n".join(f"* {name}: {value}" for name, value in record["summary"].items())
    return f"{table(record['rows'], columns)}\n\n{summary}"


def summarise(rows: list[dict], limits: list[dict]) -> dict:
    """The ratios that the table is read for, in CPU seconds."""

    def rate(solver, what="value"):
        return next(
            r["per_cpu_second"] for r in rows if r["solver"] == solver and r["what"] == what
        )

    ours = rate("mfgjax newton")
    ratios = {name: f"{ours / rate(name):,.0f} x" for name in (*JAX_PEERS, *HOST_PEERS)}
    one_vmap, in_blocks = map(rate, AS_CALLED)
    blocks = in_blocks / one_vmap
    extra = ours / rate("mfgjax newton", "value + gradient") - 1
    return {
        **{f"faster than {name}": value for name, value in ratios.items()},
        "gradient, in units of a second solve": f"{extra:.2f}",
        "solve_equilibria of four-type games, faster than one vmap": f"{blocks:.1f} x",
        **{
            f"{limit['dtype']}, of the exp or memory bound": f"{limit['fraction_of_bound']:.0%}"
            for limit in limits
        },
    }


def main(
    json_path: JsonFile = None,
    quick: Annotated[bool, typer.Option(help="a tenth of the games, fewer rows")] = False,
):
    """Solves per second against other packages."""
    jax.config.update("jax_enable_x64", True)
    rows = run_rows(quick, print)
    limits = [
        roofline(next(r for r in rows if r["dtype"] == dtype and r["types"] == 1), dtype)
        for dtype in ("float64", "float32")
    ]
    summary = summarise(rows, limits)
    print(markdown(keep(json_path, markdown, rows=rows, roofline=limits, summary=summary)))


if __name__ == "__main__":
    typer.run(main)
