"""Take tensors of another library (torch, cupy, numpy) as JAX arrays without a copy, by DLPack.

The traps, all silent in `jax.numpy.from_dlpack` itself: 64-bit integers are cut to 32 bits unless
x64 is on (2**31 + 5 becomes -2147483643), and memory that is not aligned to 64 bytes is copied.
The array shares memory with the tensor: do not write to the tensor afterwards. The memory lives
as long as either of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

_WIDE = ("int64", "uint64", "float64", "complex128")


def from_tensor(tensor: Any, *, copy: bool = False) -> Array:
    """A JAX array of `tensor`, on its device.

    Args:
        tensor: anything with `__dlpack__`.
        copy: allow a copy where the memory cannot be shared (unaligned, strided); otherwise that
            is an error.

    Raises:
        TypeError: no `__dlpack__`.
        ValueError: a 64-bit type while x64 is off, a tensor with a gradient, or memory that
            cannot be shared while `copy` is False.
    """
    if not hasattr(tensor, "__dlpack__"):
        raise TypeError(f"{type(tensor).__name__} does not speak DLPack: pass a tensor or array")
    name = str(getattr(tensor, "dtype", "")).rpartition(".")[2]
    if name in _WIDE and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"a {name} tensor would be cut to 32 bits, silently: convert it first (for torch: "
            "tensor.to(torch.int32) or .float()), or enable jax_enable_x64"
        )
    if getattr(tensor, "requires_grad", False):
        raise ValueError("the tensor carries a gradient: pass tensor.detach()")
    try:
        return jnp.from_dlpack(tensor, copy=False)
    except (ValueError, BufferError, jax.errors.JaxRuntimeError) as error:
        if not copy:
            raise ValueError(
                f"the memory of this {name} tensor cannot be shared (strided, or not aligned to 64 "
                f"bytes): pass copy=True, or tensor.contiguous(). {error}"
            ) from None
    dense = tensor.contiguous() if hasattr(tensor, "contiguous") else tensor.copy()
    return jnp.array(jnp.from_dlpack(dense), copy=True)
