"""First and second derivatives in both modes, against central differences, in one program."""

import jax
import jax.numpy as jnp
import numpy as np

STEP = 1e-5  # central differences: off by its square, and by rounding over it


def assert_derivatives(function, at, *, first=1e-8, second=1e-5):
    """Check `function` of one vector, of scalar or vector value, at `at`; returns its Jacobian.

    Args:
        function: may not be compiled; it is, here.
        at: where; float64.
        first: largest error of a first derivative, over `1 +` the largest one.
        second: likewise of a second derivative.
    """
    at = jnp.asarray(at, jnp.float64)

    def twice(function):  # what is differentiated comes along: one copy of it to compile, not two
        return lambda at: (function(at),) * 2

    def backward(at):
        slope, value = jax.jacrev(twice(function), has_aux=True)(at)
        return slope, (slope, value)

    @jax.jit
    def here(at):
        over_reverse, beside = jax.jacfwd(backward, has_aux=True)(at)
        over_forward, ahead = jax.jacrev(twice(jax.jacfwd(function)), has_aux=True)(at)
        return beside, ahead, over_reverse, over_forward

    beside, ahead, *curvatures = here(at)
    shift = np.concatenate([STEP * np.eye(len(at)), -STEP * np.eye(len(at))])
    around = [beside, *(here(at + one)[0] for one in shift)]
    slope, value = (np.stack(leaf) for leaf in zip(*around, strict=True))

    def difference(values):
        ends = np.moveaxis(values[1:], 0, -1)
        return (ends[..., : len(at)] - ends[..., len(at) :]) / (2 * STEP)

    def close(got, want, error):
        np.testing.assert_allclose(got, want, rtol=0, atol=error * (1 + np.abs(want).max()))

    close(slope[0], difference(value), first)
    close(ahead, slope[0], 1e-9)
    for curvature in curvatures:
        close(curvature, difference(slope), second)
    return slope[0]
