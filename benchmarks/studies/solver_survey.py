"""Is any game left unsolved, or called solved and wrong? Every cost, all congestions, both dtypes.

    python -m benchmarks.studies.solver_survey [--games 100] [--json FILE]

Logits up to 50, congestion log-uniform in [1e-3, 1e5], temperature log-uniform in [.05, 5], some
types alike. With one type, loads are compared with a bisection in long double that shares no code
with the solver; with three, the residual is recomputed in long double.
"""

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jaxtyping import Float

from benchmarks.record import JsonFile, keep, table
from mfgjax.equilibrium import Status, solve_equilibrium
from mfgjax.game import CapacityBarrier, Game, Linear, Power, Softplus, UserCost
from mfgjax.game.cost import Cost

WRONG = {"float64": 1e-6, "float32": 0.05}
"""L1 distance from the equilibrium (one type) or from the response (three) of a wrong answer."""
WIDE = np.longdouble
Prices = Callable[[np.ndarray], np.ndarray]


def cubic(load, scale):
    """A user's cost."""
    return scale * load + load**3


COSTS: dict[str, tuple[Callable[[], Cost], Prices]] = {
    "linear": (Linear, lambda f: f),
    "square": (lambda: Power(2.0), lambda f: f**2),
    "cube": (lambda: Power(3.0), lambda f: f**3),
    "eighth power": (lambda: Power(8.0), lambda f: f**8),
    "square root": (lambda: Power(0.5), np.sqrt),
    "softplus": (
        lambda: Softplus(0.125, 8.0),
        lambda f: np.logaddexp(WIDE(0), 8 * (f - WIDE(0.125))) / 8,
    ),
    "barrier": (lambda: CapacityBarrier(0.625), lambda f: f / (1 - f / WIDE(0.625))),
    "user's": (lambda: UserCost(cubic, jnp.asarray(2.0)), lambda f: 2 * f + f**3),
}
TOP = {"barrier": 0.625}  # loads stay below this; 1 otherwise


def draw(games: int, types: int, experts: int, cost: Cost, seed: int) -> Game:
    """Games whose numbers float32 holds exactly."""
    rng = np.random.default_rng(seed)
    shape = (games, experts) if types == 1 else (games, types, experts)
    spread = 10 ** rng.uniform(-1, np.log10(50), games)
    quality = rng.uniform(-1, 1, shape) * spread.reshape(-1, *[1] * (len(shape) - 1))
    weight = None
    if types > 1:
        alike = rng.random(games) < 0.15
        quality[alike] = quality[alike][:, :1]
        weight = np.floor(rng.dirichlet(np.full(types, 0.5), games) * 2**20) / 2**20
        weight[:, 0] += 1 - weight.sum(-1)  # sums to 1 in either dtype
    congestion = 10 ** rng.uniform(-3, 5, games)
    temperature = 10 ** rng.uniform(np.log10(0.05), np.log10(5), games)
    quality, congestion, temperature = map(np.float32, (quality, congestion, temperature))
    return Game(quality, congestion, temperature, weight, cost)


def loads_by_bisection(game: Game, price: Prices, top: float) -> Float[np.ndarray, "games experts"]:
    """Equilibria of one type: bisection of each log load inside a bisection of the normaliser."""
    temperature = np.asarray(game.temperature).astype(WIDE)[:, None]
    x = np.asarray(game.quality).astype(WIDE) / temperature
    ratio = np.asarray(game.congestion).astype(WIDE)[:, None] / temperature
    # Where every expert holds 1/M or more, and where none holds more than exp(-9).
    low = x.min(-1, keepdims=True) - ratio * price(WIDE(1) / x.shape[-1])
    high = x.max(-1, keepdims=True) + 9
    for _ in range(90):
        level = (low + high) / 2
        over = np.full_like(x, np.log(WIDE(top)))
        under = np.minimum(x - level, over) - 12000  # loads below exp(-11000) are 0 anyway
        for _ in range(75):
            middle = (under + over) / 2
            above = middle + ratio * price(np.exp(middle)) > x - level
            under, over = np.where(above, under, middle), np.where(above, middle, over)
        full = np.exp(over).sum(-1, keepdims=True) > 1
        low, high = np.where(full, level, low), np.where(full, high, level)
    return np.exp(over)


def residuals(game: Game, rows: np.ndarray, price: Prices) -> Float[np.ndarray, " games"]:
    """L1 distance of the fractions of each type from their response, and from summing to 1."""
    rows = rows.astype(WIDE)
    weight = np.asarray(game.weight).astype(WIDE)
    load = np.einsum("bk,bki->bi", weight, rows)
    felt = np.asarray(game.congestion).astype(WIDE)[:, None] * price(load)
    net = np.asarray(game.quality).astype(WIDE) - felt[:, None]
    logits = net / np.asarray(game.temperature).astype(WIDE)[:, None, None]
    answer = np.exp(logits - logits.max(-1, keepdims=True))
    answer /= answer.sum(-1, keepdims=True)
    off = np.abs(rows.sum(-1) - 1).max(-1)
    return (weight * np.abs(answer - rows).sum(-1)).sum(-1) + off


def survey(name: str, types: int, experts: int, games: int) -> list[dict]:
    """Both dtypes of one family of games, the same games in both."""
    make, price = COSTS[name]
    game = draw(games, types, experts, make(), seed=experts + types)
    exact = loads_by_bisection(game, price, TOP.get(name, 1.0)) if types == 1 else None
    rows = []
    for dtype in ("float64", "float32"):
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), game)
        solution = jax.device_get(jax.jit(jax.vmap(solve_equilibrium))(cast))
        certified = solution.status == Status.CONVERGED
        if exact is None:
            off = residuals(game, solution.type_load, price)
            understated = None
        else:
            off = np.abs(solution.load.astype(WIDE) - exact).sum(-1)
            understated = int((off > solution.error_bound + WIDE(1e-17)).sum())
        bad = ~(off <= WRONG[dtype])  # NaN is bad
        rows.append(
            {
                "cost": name,
                "types": types,
                "experts": experts,
                "dtype": dtype,
                "games": games,
                "unsolved": int((solution.status == Status.STEP_LIMIT).sum()),
                "precision": int((solution.status == Status.PRECISION).sum()),
                "other": int((~np.isin(solution.status, [0, 1, 6])).sum()),
                "certified_wrong": int((certified & bad).sum()),
                "bound_too_small": understated,
                "largest_error": float(off[certified].max(initial=0)),
                "largest_bound": float(solution.error_bound[certified].max(initial=0)),
                "median_steps": float(np.median(solution.steps)),
                "largest_steps": int(solution.steps.max()),
            }
        )
    return rows


def markdown(record: dict) -> str:
    """One line for each cost, dtype and number of types, over all numbers of experts."""
    groups: dict[tuple, list[dict]] = {}
    for row in record["rows"]:
        groups.setdefault((row["cost"], row["dtype"], row["types"]), []).append(row)
    rows = []
    for (cost, dtype, types), members in groups.items():
        line: dict = {"cost": cost, "dtype": dtype, "K": types}
        for name in ("games", "unsolved", "precision", "certified_wrong"):
            line[name] = sum(row[name] for row in members)
        small = [row["bound_too_small"] for row in members]
        line["small"] = "-" if types > 1 else sum(small)
        for name in ("largest_error", "largest_bound", "largest_steps"):
            line[name] = max(row[name] for row in members)
        rows.append(line)
    columns = {
        "cost": "cost",
        "dtype": "dtype",
        "K": "K",
        "games": "{games:,}",
        "unsolved": "unsolved",
        "beyond the dtype": "precision",
        "certified and wrong": "certified_wrong",
        "bound too small": "small",
        "largest error": "{largest_error:.1e}",
        "largest bound": "{largest_bound:.1e}",
        "most steps": "largest_steps",
    }
    return table(rows, columns)


def main(
    games: Annotated[int, typer.Option(help="of each cost, number of types and of experts")] = 100,
    costs: Annotated[str, typer.Option(help="comma-separated")] = ",".join(COSTS),
    experts: Annotated[str, typer.Option(help="comma-separated")] = "2,16,64",
    types: Annotated[str, typer.Option(help="comma-separated")] = "1,3",
    json_path: JsonFile = None,
) -> None:
    """Unsolved games and wrong answers, by cost."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in costs.split(","):
        for count in map(int, types.split(",")):
            for size in map(int, experts.split(",")):
                rows += survey(name, count, size, games)
                print(rows[-2], rows[-1], sep="\n", flush=True)
    print(markdown(keep(json_path, markdown, wrong=WRONG, rows=rows)))


if __name__ == "__main__":
    typer.run(main)
