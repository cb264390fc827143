"""Qualities and loads without a trace: CSV, NPZ or NPY files, one pair of rows per layer.

| file | content |
|---|---|
| `.csv`, rows | lines `quality,1.2,0.3,...` and `load,0.4,0.2,...`, in turn, one value per expert |
| `.csv`, columns | a header with `quality` and `load`, perhaps `layer`; one line per expert |
| `.npz` | arrays `quality` and `load`, `[expert]` or `[layer, expert]` |
| `.npy` | `[2, expert]` or `[2, layer, expert]`: quality, then load |

A load is fractions that sum to 1, or dispatch counts.
"""

import csv
import dataclasses
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mfgjax.trace.readers.untrusted import MAX_FILE_BYTES, parse_npy, regular_file
from mfgjax.trace.schema import TraceError

SUFFIXES = (".csv", ".npz", ".npy")
_DAMAGED = (csv.Error, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What a damaged file can end in: the last two for ways of packing that zipfile does not know."""
_OFF_ONE = 1e-3
"""Slack of fractions that were rounded for print."""


@dataclasses.dataclass(frozen=True)
class QualityLoad:
    """What the file said.

    Attributes:
        quality: per layer and expert, float64.
        load: fractions, per layer and expert, float64.
        dispatches: number of dispatches behind each load where it came as counts, else NaN.
        layers: names.
    """

    quality: np.ndarray
    load: np.ndarray
    dispatches: np.ndarray
    layers: tuple[str, ...]


def read_quality_load(path: str | Path) -> QualityLoad:
    """Read and check a file of qualities and loads.

    Raises:
        TraceError: a file that is missing, of another kind, mis-shaped, with NaN, with loads that
            are neither fractions nor counts, or with probabilities for qualities.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise TraceError(f"{path}: one of {', '.join(SUFFIXES)} or a trace was expected.")
    if not path.is_file():
        raise TraceError(f"{path}: no such file.")
    layers = None
    try:
        if path.suffix == ".csv":
            quality, load, layers = _csv(path)
        elif path.suffix == ".npz":
            quality, load = (parse_npy(content, str(path)) for content in _members(path))
        else:
            quality, load = parse_npy(regular_file(path).read_bytes(), str(path))
        if np.iscomplexobj(quality) or np.iscomplexobj(load):  # a cast would drop a part
            raise TypeError("complex numbers")
        quality, load = np.atleast_2d(np.asarray(quality, float), np.asarray(load, float))
    except TraceError:
        raise
    except (KeyError, ValueError, TypeError, OSError, EOFError, *_DAMAGED) as error:
        raise TraceError(
            f"{path}: not a file of qualities and loads ({str(error) or 'empty'}). "
            "`mfgjax fit --help` shows the forms."
        ) from None
    _check(path, quality, load)
    total = load.sum(-1)
    whole = (load == load.round()).all(-1) & (total > 1)
    if (~whole & (np.abs(total - 1) > _OFF_ONE)).any():
        layer = int(np.argmax(~whole & (np.abs(total - 1) > _OFF_ONE)))
        raise TraceError(
            f"{path}: the load of layer {layer} sums to {total[layer]:.4g}: neither fractions that "
            "sum to 1 nor counts. Divide it by its sum."
        )
    names = layers or tuple(str(layer) for layer in range(len(quality)))
    return QualityLoad(quality, load / total[:, None], np.where(whole, total, np.nan), names)


def _members(path: Path) -> Iterator[bytes]:
    """The arrays `quality` and `load` of an NPZ file, as the NPY files that they are in it."""
    with zipfile.ZipFile(regular_file(path)) as archive:
        for name in ("quality.npy", "load.npy"):
            if name not in archive.namelist():
                raise ValueError(f"no {name[:-4]} among {', '.join(archive.namelist()[:4])}")
            if archive.getinfo(name).file_size > MAX_FILE_BYTES:
                raise ValueError(f"{name} claims more than {MAX_FILE_BYTES} bytes")
            yield archive.read(name)


def _csv(path: Path) -> tuple[list, list, tuple[str, ...] | None]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    if not rows:
        raise ValueError("no lines")
    header = [cell.lower() for cell in rows[0]]
    if {"quality", "load"} <= set(header):
        return _columns(header, rows[1:])
    if rows[0][0].lower() not in ("quality", "load"):
        raise ValueError(f"line 1 has {', '.join(rows[0][:4])}, no quality and load")
    named = [(row[0].lower(), [float(cell) for cell in row[1:]]) for row in rows]
    if [name for name, _ in named] != ["quality", "load"] * (len(named) // 2):
        raise ValueError("lines must begin with quality, load, quality, load, ... in turn")
    return [row for _, row in named[::2]], [row for _, row in named[1::2]], None


def _columns(header: list[str], rows: list[list[str]]):
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        quality, load = found.setdefault(cells.get("layer", "0"), ([], []))
        quality.append(float(cells["quality"]))
        load.append(float(cells["load"]))
    pairs = list(found.values())
    return [q for q, _ in pairs], [m for _, m in pairs], tuple(found)


def _check(path: Path, quality: np.ndarray, load: np.ndarray) -> None:
    shaped = quality.shape == load.shape and quality.ndim == 2
    if not shaped or quality.shape[0] < 1 or quality.shape[1] < 2:
        raise TraceError(
            f"{path}: quality has shape {quality.shape} and load {load.shape}; both must be "
            "[layer, expert] with 1 layer and 2 experts or more."
        )
    for name, values in (("quality", quality), ("load", load)):
        if not np.isfinite(values).all():
            layer, expert = np.argwhere(~np.isfinite(values))[0]
            raise TraceError(
                f"{path}: {name} is {values[layer, expert]} at layer {layer}, expert {expert}. "
                "Every expert needs a finite number."
            )
    if (load < 0).any() or (load.sum(-1) == 0).any():
        raise TraceError(f"{path}: a load is negative, or all of a layer's loads are 0.")
    if ((quality > 0).all(-1) & (np.abs(quality.sum(-1) - 1) < 1e-6)).any():
        raise TraceError(
            f"{path}: a quality row is positive and sums to 1: probabilities, not raw router "
            "logits. Give mean logits (or the logarithm of the probabilities)."
        )
