"""Observations on their way into a fit: refused, brought to one scale, cut into blocks."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from mfgjax.gaussian_moe.layout import Layout, Units
from mfgjax.gaussian_moe.result import MixtureStatus
from mfgjax.gaussian_moe.scores import Rows

_BLOCK = 1024
"""Observations in one block of a pass over the data: what it makes of them stays in the cache."""


def refuse(x: np.ndarray, y: np.ndarray, layout: Layout) -> np.ndarray:
    """Status of data sets that cannot be fitted; `CONVERGED` for the others."""
    found = np.full(len(y), int(MixtureStatus.CONVERGED))
    if y.shape[1] <= layout.parameters:
        found[:] = MixtureStatus.TOO_FEW
    with np.errstate(all="ignore"):
        centred = x - x.mean(1, keepdims=True)
        spread = np.sqrt((centred**2).mean(1))
        flat = spread <= 1e-12 * np.abs(x).max(1, initial=0)
        unit = centred / np.where(flat, 1, spread)[:, None]
        gram = np.nan_to_num(np.einsum("bnd,bne->bde", unit, unit) / max(y.shape[1], 1))
        degenerate = flat.any(-1) | (np.linalg.eigvalsh(gram)[:, 0] < 1e-10)
        degenerate |= y.std(1) <= 1e-12 * np.abs(y).max(1, initial=0)
    found[degenerate & (found == MixtureStatus.CONVERGED)] = MixtureStatus.DEGENERATE
    broken = ~(np.isfinite(x).all((1, 2)) & np.isfinite(y).all(1))
    found[broken] = MixtureStatus.BAD_INPUT
    return found


def units_of(x: np.ndarray, y: np.ndarray, layout: Layout) -> Units:
    """Centred and scaled; but another gate than a linear one has no place for a shift of x."""
    shift = x.mean(1) if layout.relative else np.zeros((len(x), x.shape[-1]))
    unit = np.sqrt(((x - shift[:, None]) ** 2).mean(1))
    numbers: Any = shift, unit, y.mean(1), y.std(1)  # of NumPy: each operation of jax is a program
    return Units(*numbers)


def rows_of(x: np.ndarray, y: np.ndarray, units: Units) -> Rows:
    """In those units, in blocks, filled up."""
    block = min(_BLOCK, -(-y.shape[1] // 64) * 64)
    padded = -(-y.shape[1] // block) * block
    shift, unit, y_shift, y_unit = (np.asarray(v) for v in units)
    filling = padded - y.shape[1]
    x = np.swapaxes((x - shift[:, None]) / unit[:, None], 1, 2)
    x = np.concatenate([x, np.ones_like(x[:, :1])], 1)
    y = (y - y_shift[:, None]) / y_unit[:, None]
    weight = np.ones_like(y)
    x = np.pad(x, ((0, 0), (0, 0), (0, filling)))
    y, weight = (np.pad(v, ((0, 0), (0, filling))) for v in (y, weight))
    filled: Any = x, y, weight
    return in_blocks(*filled, size=block)


def in_blocks(
    x: Float[Array, "*set feature row"],
    y: Float[Array, "*set row"],
    weight: Float[Array, "*set row"],
    size: int,
) -> Rows:
    """Cut into blocks of `size`, which divides the number of rows."""
    x = x.reshape(*x.shape[:-1], -1, size).swapaxes(-3, -2)
    return Rows(x, *(v.reshape(*v.shape[:-1], -1, size) for v in (y, weight)))
