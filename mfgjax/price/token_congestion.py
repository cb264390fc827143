"""Congestion at the level of tokens: the gamma at which the game, played by tokens, gives the load.

    gamma_token  =  argmin over gamma of  | load of top-K(score - gamma f) - f |_1,  f the observed load   (1)

0 with residual 0 for a router without a price, the gamma in force where the price is gamma f, and else the
projection of the price on a line in f. Signed. The load in (1) is piecewise constant in gamma: between two
crossings of the lines `score_i - gamma f_i` at the edge of a token's top-K nothing changes. So (1) is
solved by counting, in whole numbers: every crossing in a bracket, sorted.

The bracket is certified. `g(gamma) = sum_i load_i f_i` never rises (minus the derivative of the convex
mean of top-K sums), and by Hoelder's inequality the residual is at least `|g - sum f^2| / h`, h half the range
of f: where that exceeds a residual already reached, no better gamma lies beyond.
"""

import dataclasses

import numpy as np

from mfgjax.numerics.roots import narrow_on_host
from mfgjax.price.scores import Ranked, ranked_tokens
from mfgjax.trace.choice_bound import SelectionRule, selection_rule
from mfgjax.trace.schema import TokenTrace

MOST_CROSSINGS = 20_000_000
_CHUNK_VALUES = 4_000_000
_HALVINGS, _DOUBLINGS = 24, 60


@dataclasses.dataclass(frozen=True)
class TokenCongestion:
    """Solution of (1) for one layer.

    Attributes:
        congestion: middle of the interval, or 0 where that is inside it.
        low: least gamma of the piece with the least residual.
        high: largest gamma of it. One of several equally good pieces: the one nearest `projection`.
        residual: of (1) there.
        residual_at_zero: of (1) without a price.
        pieces: how many pieces have the least residual.
        exact: whether every crossing was counted. If not, there were too many: the minimiser is certified
            to lie in `[low, high]`, and `residual` is that at `projection`.
        projection: where `g` crosses `sum f^2`: the minimiser of a convex function, nearly the same
            number, and the one that resamples and that has a smooth version.
    """

    congestion: float
    low: float
    high: float
    residual: float
    residual_at_zero: float
    pieces: int
    exact: bool
    projection: float


def fit_token_congestion(
    trace: TokenTrace,
    layer: int,
    *,
    rule: SelectionRule | None = None,
    most_crossings: int = MOST_CROSSINGS,
) -> TokenCongestion:
    """Solve (1) for one layer of a trace of tokens. On the host; not differentiable (see `smooth.py`).

    Work: about 50 passes over token x expert, and one over top_k x expert per crossing. With
    group-limited choice the groups are held as chosen.

    Args:
        trace: of tokens.
        layer: its number.
        rule: how it ranks experts, where the trace does not say.
        most_crossings: give up counting beyond, and return the certified bracket.

    Raises:
        TraceError: a rule that the trace does not name.
    """
    if rule is None:
        rule = selection_rule(trace.metadata, layer, trace.selection_bias is not None)
    return fit_from_ranked(ranked_tokens(trace, layer, rule), most_crossings=most_crossings)


def fit_from_ranked(ranked: Ranked, *, most_crossings: int = MOST_CROSSINGS) -> TokenCongestion:
    """Solve (1) for tokens as their router saw them."""
    game = Game(ranked)
    at_zero = game.residual(0.0)
    if game.half_range == 0:  # an even load: a price that is a line in it moves nothing
        return TokenCongestion(0.0, -np.inf, np.inf, at_zero, at_zero, 1, True, 0.0)
    projection, low, high, best = game.certified_bracket(at_zero)
    crossings = _crossings(game, low, high, most_crossings)
    if crossings is None:
        return TokenCongestion(projection, low, high, best, at_zero, 1, False, projection)
    at, residual = _pieces(game, low, crossings)
    least = residual.min()
    if at_zero < least:  # ties at 0, which the router broke its own way
        return TokenCongestion(0.0, 0.0, 0.0, at_zero, at_zero, 1, True, projection)
    starts, ends = np.append(low, at), np.append(at, high)
    good = np.flatnonzero((residual == least) & (ends > starts))
    distance = np.maximum(starts[good] - projection, projection - ends[good])
    piece = good[distance.argmin()]
    start, end = float(starts[piece]), float(ends[piece])
    middle = 0.0 if start <= 0 <= end else (start + end) / 2
    return TokenCongestion(middle, start, end, float(least), at_zero, len(good), True, projection)


class Game:
    """The tokens of one layer, and what they choose at a gamma."""

    def __init__(self, ranked: Ranked):
        self.score = np.where(ranked.compared, ranked.score, -np.inf)
        self.chosen = ranked.chosen
        self.top_k = ranked.choices.shape[1]
        self.count = ranked.chosen.sum(0)
        self.total = int(self.count.sum())
        self.load = self.count / self.total
        self.half_range = float(np.ptp(self.load)) / 2

    def choose(self, congestion: float) -> np.ndarray:
        """The top-K as a mask; ties go to what was really chosen."""
        ranked = self.score - congestion * self.load
        edge = np.partition(ranked, -self.top_k, axis=-1)[:, -self.top_k, None]
        above, tied = ranked > edge, ranked == edge
        room = self.top_k - above.sum(-1, keepdims=True)
        first = tied & self.chosen
        taken = first & (first.cumsum(-1) <= room)
        room = room - taken.sum(-1, keepdims=True)
        rest = tied & ~self.chosen
        return above | taken | (rest & (rest.cumsum(-1) <= room))

    def residual_of(self, count: np.ndarray) -> float:
        return float(np.abs(count - self.count).sum() / self.total)

    def residual(self, congestion: float) -> float:
        return self.residual_of(self.choose(congestion).sum(0))

    def excess(self, congestion: float) -> tuple[float, float]:
        """`g - sum f^2`, which never rises, and the residual."""
        count = self.choose(congestion).sum(0)
        off = (count - self.count) / self.total
        return float(off @ (self.load - self.load.mean())), float(np.abs(off).sum())

    def certified_bracket(self, at_zero: float) -> tuple[float, float, float, float]:
        """`(projection, low, high, best residual seen)`; every minimiser of (1) lies within."""
        low, high, left, right, best = self._halve()
        best = min(best, at_zero)
        projection = 0.0 if left <= 0 <= right else (left + right) / 2
        bound = best * self.half_range
        return projection, *self._ends(low, high, projection, bound), best

    def projection(self) -> float:
        """Where `g` crosses `sum f^2`."""
        _, _, left, right, _ = self._halve()
        return (left + right) / 2

    def _halve(self) -> tuple[float, float, float, float, float]:
        """A wide bracket of the crossing, a narrow one, and the least residual met on the way."""
        reach = float(self.score[np.isfinite(self.score)].std() / self.half_range) + 1e-300
        low, high = -reach, reach
        for _ in range(_DOUBLINGS):
            if self.excess(low)[0] > 0:
                break
            low *= 2
        for _ in range(_DOUBLINGS):
            if self.excess(high)[0] < 0:
                break
            high *= 2
        met = []

        def beyond(congestion):
            value, residual = self.excess(congestion)
            met.append(residual)
            return value <= 0

        left, right = narrow_on_host(beyond, low, high, _HALVINGS)
        return low, high, float(left), float(right), min(met)

    def _ends(self, low: float, high: float, inside: float, bound: float) -> tuple[float, float]:
        """Nearest ends where the excess alone says that the residual is larger than the best."""
        ends = []
        for far, sign in ((low, 1), (high, -1)):
            while sign * self.excess(far)[0] <= bound:  # not far enough to certify
                if abs(far) > 1e12 * (abs(inside) + 1):
                    break
                far *= 2
            certain = lambda at, sign=sign: sign * self.excess(at)[0] > bound  # noqa: E731
            ends.append(float(narrow_on_host(certain, inside, far, _HALVINGS // 2)[1]))
        return ends[0], ends[1]


def _crossings(game: Game, low: float, high: float, most: int):
    """Every change of a token's top-K in (low, high]: `(gamma, out, in)`; None if there are too many."""
    experts = len(game.load)
    rows = max(1, _CHUNK_VALUES // (game.top_k * experts))
    found, total = [], 0
    start = game.choose(low)
    for first in range(0, len(start), rows):
        score = game.score[first : first + rows]
        member = start[first : first + rows]
        inside = np.nonzero(member)[1].reshape(-1, game.top_k)
        outside_score = np.where(member, -np.inf, score)
        now = np.full(len(score), low)
        while len(now):
            fall = game.load[inside][:, :, None] - game.load
            gap = np.take_along_axis(score, inside, 1)[:, :, None] - outside_score[:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                at = np.where(fall > 0, gap / fall, np.inf)
            flat = at.reshape(len(now), -1)
            place = flat.argmin(-1)
            here = np.arange(len(now))
            when = np.maximum(flat[here, place], now)
            alive = when <= high
            score, outside_score, inside = score[alive], outside_score[alive], inside[alive]
            now, (slot, comes) = when[alive], np.divmod(place[alive], experts)
            here = np.arange(len(now))
            goes = inside[here, slot]
            found.append((now, goes, comes))
            total += len(now)
            if total > most:
                return None
            inside[here, slot] = comes
            outside_score[here, comes] = -np.inf
            outside_score[here, goes] = score[here, goes]
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _pieces(game: Game, low: float, crossings):
    """Where the load changes, and the residual of (1) before the first change and after each."""
    when, goes, comes = crossings
    order = when.argsort(kind="stable")
    when = when[order]
    # Two changes per crossing, one up and one down, in order; counted expert by expert.
    expert = np.stack([goes[order], comes[order]], 1).ravel()
    step = np.tile([-1, 1], len(when))
    by_expert = expert.argsort(kind="stable")
    running = step[by_expert].cumsum()
    sizes = np.bincount(expert, minlength=len(game.load))
    before = np.concatenate([[0], running])[np.cumsum(sizes) - sizes]
    begin = game.choose(low).sum(0)
    after = begin[expert[by_expert]] + running - np.repeat(before, sizes)
    target = game.count[expert[by_expert]]
    change = np.abs(after - target) - np.abs(after - step[by_expert] - target)
    ordered = np.zeros(len(expert), np.int64)
    ordered[by_expert] = change
    level = np.abs(begin - game.count).sum() + ordered.reshape(-1, 2).sum(1).cumsum()
    last = np.append(when[1:] > when[:-1], True) if len(when) else np.zeros(0, bool)
    levels = np.append(np.abs(begin - game.count).sum(), level[last])
    return when[last], levels / game.total
