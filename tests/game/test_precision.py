"""Products that a certificate or a count rests on ask for full precision, in the program itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.equilibrium.layered import solve_layered, solve_layers_apart
from mfgjax.equilibrium.solve import METHODS
from mfgjax.game import Game, Power
from mfgjax.game.layered import LayeredGame, load_covariance, sweep
from mfgjax.game.potential import dual, gap, potential
from mfgjax.game.response import aggregate
from mfgjax.game.welfare import social_cost
from mfgjax.scope.coupling import _over_rows

ROWS = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
GAME = Game(
    jnp.array([[1.0, 0.0, 2.0], [0.0, 0.5, 0.0]]), 2.0, 1.0, jnp.array([0.4, 0.6]), Power(2.0)
)
STACK = LayeredGame(jnp.zeros(3), jnp.zeros((1, 3, 3)), 1.0)


def products(jaxpr):
    """Precision of every matrix product, in nested programs too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def load_of(method):
    return lambda game: solve_equilibrium(game, method=method).load[0]


def stacked(game, method):
    return solve_layered(game, method=method).load[0, 0]


def coupling():
    logits = jnp.zeros((5, 2, 3), jnp.float32)
    one = jnp.ones((1, 5), jnp.float32)
    return _over_rows(
        logits, jnp.zeros((5, 2), int), logits, one, jnp.ones((1, 2), jnp.float32), jnp.float32(1)
    )


PROGRAMS = {
    **{f"solve_equilibrium, {method}": (load_of(method), GAME) for method in METHODS},
    "its gradient": (jax.grad(load_of("newton")), GAME),
    "solve_layered": (lambda game: stacked(game, "newton"), STACK),
    "solve_layered, sweep": (lambda game: stacked(game, "sweep"), STACK),
    "its gradient in the stack": (jax.grad(lambda game: stacked(game, "newton")), STACK),
    "solve_layers_apart": (lambda game: solve_layers_apart(game, jnp.full((2, 3), 1 / 3)), STACK),
    "load_covariance": (lambda game: load_covariance(sweep(game, jnp.zeros((2, 3)))), STACK),
    **{
        function.__name__: (lambda game, function=function: function(game, ROWS), GAME)
        for function in (aggregate, potential, gap, social_cost)
    },
    "dual": (lambda game: dual(game, ROWS[0]), GAME),
    "coupled layers": (lambda game: coupling(), GAME),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_product_is_at_full_precision(name):
    function, argument = PROGRAMS[name]
    asked = list(products(jax.make_jaxpr(function)(argument).jaxpr))
    highest = jax.lax.Precision.HIGHEST
    assert asked and set(asked) == {(highest, highest)}
