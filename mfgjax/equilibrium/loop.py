"""`lax.while_loop` that also runs inside `shard_map`, where every part of a state has mesh axes."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

State = TypeVar("State")


def while_loop(
    unfinished: Callable, step: Callable[[State], State], start: State, like: object
) -> State:
    """`lax.while_loop(unfinished, step, start)`, with all of the state on the mesh axes of `like`.

    Args:
        unfinished: as in `lax.while_loop`.
        step: as in `lax.while_loop`.
        start: a tuple of arrays and numbers. Constants in it do not vary over a mesh; what a step
            makes of them does, and `lax.while_loop` refuses a state whose type changes.
        like: any pytree of arrays that holds the data of the loop.
    """
    start = on_mesh_axes_of(like, start)
    return lax.while_loop(unfinished, lambda state: on_mesh_axes_of(like, step(state)), start)


def where_needed(
    needed: Bool[Array, ""], work: Callable[[Array], State], usual: State, data: Array
) -> State:
    """`work(data)` where `needed`, `usual` elsewhere; under `vmap` not run unless an instance needs it.

    A loop of at most one turn: under `vmap`, `lax.cond` would run both branches for every batch.

    Args:
        needed: of this instance.
        work: of the data, which are 0 for instances that do not need it. What does not depend on
            them XLA may compute ahead of the loop, needed or not.
        usual: arrays as `work` returns them.
        data: an array.
    """

    def turn(state):
        _, pending = state
        return work(jnp.where(pending, data, 0)), jnp.zeros((), bool)

    return while_loop(lambda state: state[1], turn, (usual, needed), (data, needed))[0]


def on_mesh_axes_of(like: object, tree: State) -> State:
    """`tree`, varying over every mesh axis that any array of `like` varies over in `shard_map`."""
    axes = frozenset().union(*map(_mesh_axes, jax.tree.leaves(like)))

    def spread(leaf):
        missing = tuple(axes - _mesh_axes(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(spread, tree) if axes else tree


def _mesh_axes(leaf) -> frozenset:
    """Axes of a mesh over which `leaf` varies inside `shard_map`; none outside it."""
    kind = jax.typeof(leaf)
    manual = getattr(kind, "manual_axis_type", None)  # jax 0.11; before, `vma`
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def explicit_mesh_axes(tree: object) -> tuple[str, ...]:
    """Names of explicit mesh axes that arrays of `tree` live on, which the solvers cannot use."""
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree)]
    return tuple(sorted({name for mesh in meshes for name in mesh.explicit_axes}))
