"""Products at the full precision of their dtype, whatever the device's default is.

Recent accelerators multiply float32 matrices with 10-bit mantissas (TF32, bfloat16) unless told not
to. Certificates here count float32 roundings, so everything they rest on says so.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax

Function = TypeVar("Function", bound=Callable)


def full_precision(function: Function) -> Function:
    """`function` with every matrix product traced in it at the precision `"highest"`.

    Derivatives of those products inherit it. Rules of `custom_jvp` are traced later, on their own:
    decorate them too.
    """

    @functools.wraps(function)
    def at_full_precision(*args, **kwargs):
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return at_full_precision  # pyright: ignore[reportReturnType]
