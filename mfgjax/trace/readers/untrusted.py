"""Read files of unknown origin: bounded sizes, no path out of the folder, no code."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from mfgjax.trace.schema import TraceError

MAX_FILE_BYTES = 8 * 2**30
"""Larger dumps are refused before they are read."""
MAX_LINE_BYTES = 2**30
MAX_NPY_HEADER = 10_000


def regular_file(path: Path) -> Path:
    """`path`, if it is a file of bounded size that is no link out of its folder.

    Raises:
        TraceError: missing, a link that leaves the folder, or larger than `MAX_FILE_BYTES`.
    """
    if not path.is_file():
        raise TraceError(f"{path}: no such file")
    if path.is_symlink() and path.resolve().parent != path.parent.resolve():
        raise TraceError(f"{path}: a link out of its folder is not followed; give the file itself")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise TraceError(f"{path}: {size} bytes, at most {MAX_FILE_BYTES} are read; split the dump")
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        TraceError: not JSON, too deeply nested, or see `regular_file`.
    """
    return parse_json(regular_file(path).read_bytes(), str(path))


def parse_json(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where}: not JSON ({type(error).__name__}: {error})") from None


def json_lines(path: Path):
    """`(line number, value)` of each non-blank line of a JSON-lines file."""
    with regular_file(path).open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise TraceError(f"{path}:{number}: a line of more than {MAX_LINE_BYTES} bytes")
            if line.strip():
                yield number, parse_json(line, f"{path}:{number}")


def parse_npy(content: bytes, where: str) -> np.ndarray:
    """The array in the bytes of a `.npy` file; objects (pickles) are refused.

    The shape is compared with the bytes that are there before memory is taken for it.

    Raises:
        TraceError: not a plain `.npy` array.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(stream, max_header_size=MAX_NPY_HEADER)
    except Exception as error:  # numpy parses the header as Python, which can fail in any way
        raise TraceError(f"{where}: not a .npy array ({error}): write it with numpy.save") from None
    if not all(type(size) is int and size >= 0 for size in shape):
        raise TraceError(f"{where}: not a .npy array (shape {shape})")
    if dtype.hasobject:
        raise TraceError(
            f"{where}: holds pickled Python objects, which are not loaded: save plain numbers"
        )
    count = 1
    for size in shape:  # Python integers: a hostile shape cannot overflow
        count *= int(size)
    data = content[stream.tell() :]
    if count * dtype.itemsize != len(data):
        raise TraceError(
            f"{where}: shape {shape} needs {count * dtype.itemsize} bytes, not {len(data)}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """`record[name]`, if it is a `kind`.

    Raises:
        TraceError: absent or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TraceError(f"{where}: {name!r} is {type(value).__name__}, {kind.__name__} expected")
    return value


def index_array(value: Any, dimensions: int, where: str) -> np.ndarray:
    """Nested lists of integers as an array with the given number of dimensions.

    Raises:
        TraceError: ragged, not integers, or of another depth.
    """
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise TraceError(f"{where}: not a rectangular list of integers ({error})") from None
    if array.ndim != dimensions or array.dtype.kind not in "iu" or 0 in array.shape:
        raise TraceError(
            f"{where}: a list of integers nested {dimensions} deep expected, found shape "
            f"{array.shape} of {array.dtype}"
        )
    return array.astype(np.int64)
