"""A balancing rule: two pure functions, and a loss where it has one.

    select(logits, state, context) -> Selection      which experts each token takes, and with what weight
    update(state, counts, logits, context) -> state  what the rule remembers, after every step
    loss(layers, state, context) -> scalar           added to the language model's loss

`state` is a dictionary of arrays of one layer: the rule's settings (traced, so that a dose is no new
program) and what `start` puts beside them. `docs/how-to/lab.md` adds a rule in thirty lines.
"""

import dataclasses
import hashlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

State = dict[str, Array]


class Context(NamedTuple):
    """What a rule may look at beside the logits of its layer.

    Attributes:
        top_k: experts per token, K; static.
        micro_batches: parts that the tokens lie in one after the other, each of one domain; static.
        training: static; False where the model is evaluated.
        recent: the byte of each token and the two before it.
        key: random numbers of this layer and step.
        weight: the router's matrix.
    """

    top_k: int
    micro_batches: int
    training: bool
    recent: Int[Array, "token 3"]
    key: PRNGKeyArray
    weight: Float[Array, "width expert"]


class Selection(NamedTuple):
    """Attributes:
    choices: experts of each token, all different; -1 for none (only of a rule with `any_number`).
    weights: what each expert's output is multiplied with; 0 where capacity dropped the choice.
    """

    choices: Int[Array, "token choice"]
    weights: Float[Array, "token choice"]


class Layers(NamedTuple):
    """What a loss reads, of all layers at once.

    Attributes:
        logits, choices: as in `select`, with a leading layer.
        weight: the routers' matrices.
    """

    logits: Float[Array, "layer token expert"]
    choices: Int[Array, "layer token choice"]
    weight: Float[Array, "layer width expert"]


Select = Callable[[Array, State, Context], Selection]
Update = Callable[[State, Array, Array, Context], State]
Loss = Callable[[Layers, State, Context], Array]


def settings_only(experts: int, settings: State) -> State:
    """A rule that remembers nothing."""
    return settings


def keep(state: State, counts: Array, logits: Array, context: Context) -> State:
    """A rule that learns nothing."""
    return state


def zero_bias(experts: int, settings: State) -> State:
    """Settings, and a bias of 0 for each expert."""
    return settings | {"bias": jnp.zeros(experts, jnp.float32)}


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """One arm of the lab.

    Attributes:
        select, update, loss, start: see the module; in a loss, arrays of the state have a leading layer.
            `start` makes the state of one layer, from the number of experts and the settings as arrays.
        settings: names and defaults of the numbers that may be dosed.
        score: what the choices are the top-K of, plus the bias where the state has one: "logits",
            "softmax", or "unknown", where no price can be read from choices.
        any_number: whether a token may get more or fewer than K experts.
        about: what it does and where its defaults are from, one line.
        digest: of the file that a user's rule is from, so that a folder knows it again.
    """

    select: Select
    update: Update = keep
    loss: Loss | None = None
    start: Callable[[int, State], State] = settings_only
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    score: str = "unknown"
    any_number: bool = False
    about: str = ""
    digest: str = ""

    def state(self, experts: int, **settings: float) -> State:
        """State of one layer before the first step.

        Raises:
            ValueError: a setting that the rule has not.
        """
        unknown = set(settings) - set(self.settings)
        if unknown:
            raise ValueError(
                f"the rule has no setting {', '.join(sorted(unknown))}; it has "
                f"{', '.join(self.settings) or 'none'}"
            )
        values = {**self.settings, **settings}
        return self.start(experts, {n: jnp.asarray(v, jnp.float32) for n, v in values.items()})


def choose(
    logits: Float[Array, "token expert"], scores: Float[Array, "token expert"], top_k: int
) -> Selection:
    """The top-K of `scores`, combined with the softmax of the chosen experts' logits.

    So a bias in the scores moves the choice and nothing else, as in DeepSeek-V3 (arXiv 2412.19437, eq. 16;
    there scores are sigmoids).
    """
    choices = lax.top_k(lax.stop_gradient(scores), top_k)[1].astype(jnp.int32)
    return Selection(
        choices, jax.nn.softmax(jnp.take_along_axis(logits, choices, axis=-1), axis=-1)
    )


def choose_biased(logits: Array, state: State, context: Context) -> Selection:
    """The top-K of logits plus `state["bias"]`."""
    return choose(logits, logits + state["bias"][None], context.top_k)


def biased(update: Update, about: str, settings: Mapping[str, float] = {}, start=zero_bias) -> Rule:
    """A rule that chooses by logits plus a bias, and moves the bias after every step."""
    return Rule(choose_biased, update, start=start, settings=settings, score="logits", about=about)


def with_average(experts: int, settings: State) -> State:
    """Settings, and a running load that starts even."""
    return settings | {"average": jnp.full(experts, 1 / experts, jnp.float32)}


def load_of(counts: Int[Array, " expert"]) -> Float[Array, " expert"]:
    """Share of the choices that each expert got."""
    counts = counts.astype(jnp.float32)
    return counts / counts.sum()


def count_choices(choices: Int[Array, "*batch choice"], experts: int) -> Int[Array, " expert"]:
    """How often each expert is chosen; -1 counts for none."""
    hot = jax.nn.one_hot(choices, experts, dtype=jnp.int32)
    return hot.sum(tuple(range(choices.ndim)), dtype=jnp.int32)


def read_rule(path: Path) -> Rule:
    """`RULE` of a Python file, which is run.

    Raises:
        ValueError: no such file, a file that fails, or one without a `RULE`; names file and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such Python file")
    return rule_of(path.read_text(encoding="utf-8"), path)


def rule_of(source: str, path: Path) -> Rule:
    """`RULE` of what a file says, on a machine that may not have it. Raises `ValueError` as `read_rule`."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        raise ValueError(blame(error, path) or f"{path}: {error}") from None
    rule = getattr(module, "RULE", None)
    if not isinstance(rule, Rule):
        raise ValueError(
            f"{path}: defines no RULE = Rule(...). docs/how-to/lab.md has one to start from."
        )
    return dataclasses.replace(rule, digest=hashlib.sha256(source.encode()).hexdigest())


def blame(error: BaseException, path: Path) -> str | None:
    """What went wrong in the user's file, with its line; None where the error is not from there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if not frames:
        return None
    return f"{path}, line {frames[-1].lineno}: {type(error).__name__}: {error}"
