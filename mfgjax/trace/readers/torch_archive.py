"""Read the tensors of a `torch.save` file without torch and without running its pickle.

The archive is a zip: `data.pkl` rebuilds the object, `data/<key>` hold the bytes. Here the pickle
may only rebuild tensors, dictionaries, lists and plain values: any other name in it is refused,
so nothing of the file's choosing is ever imported or called.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from mfgjax.trace.readers.untrusted import MAX_FILE_BYTES, regular_file
from mfgjax.trace.schema import TraceError

MAX_PICKLE_BYTES = 256 * 2**20
MOST_USES = 4
"""How many times over the tensors of a file may take the numbers of one storage."""
_STORAGES = {
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "ShortStorage": np.dtype("<i2"),
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "BoolStorage": np.dtype("?"),
    "HalfStorage": np.dtype("<f2"),
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
}


def read_torch_archive(path: Path) -> Any:
    """The object saved in `path`, tensors as NumPy arrays: read-only views of the bytes in the file.

    A tensor larger than its storage (expanded: one number that claims to be gigabytes), or tensors
    that take a storage many times over, are refused before memory is taken for them.

    Raises:
        TraceError: not a torch zip archive (plain pickles are refused), compressed or oversized
            members, an unknown byte order, or a pickle that asks for anything but tensors.
    """
    try:
        archive = zipfile.ZipFile(regular_file(path))
    except zipfile.BadZipFile:
        raise TraceError(
            f"{path}: not a torch.save archive. Plain pickles are refused: they run code"
        ) from None
    with archive:
        members = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise TraceError(f"{path}: not a torch.save archive ({len(roots)} data.pkl in it)")
        if any(i.compress_type for i in members.values()):
            raise TraceError(f"{path}: compressed members; torch.save writes none")
        if sum(i.file_size for i in members.values()) > MAX_FILE_BYTES:
            raise TraceError(f"{path}: claims more than {MAX_FILE_BYTES} bytes")
        if members[roots[0] + "data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise TraceError(f"{path}: data.pkl is larger than {MAX_PICKLE_BYTES} bytes")
        order = roots[0] + "byteorder"
        if order in members and archive.read(order) != b"little":
            raise TraceError(f"{path}: big-endian tensors are not read")
        try:
            content = archive.read(roots[0] + "data.pkl")
            return _TensorUnpickler(content, archive, roots[0], str(path)).load()
        except TraceError:
            raise
        except Exception as error:  # a damaged pickle can fail in any way; none of them is ours
            raise TraceError(f"{path}: damaged ({type(error).__name__}: {error})") from None


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes, archive: zipfile.ZipFile, root: str, where: str):
        super().__init__(io.BytesIO(content))
        self._archive, self._root, self._where = archive, root, where
        self._storages: dict[str, np.ndarray] = {}
        self._taken: dict[int, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise TraceError(
            f"{self._where}: its pickle asks for {module}.{name}; only tensors and plain values are "
            "read. If you trust the file, load it with torch and save its tensors alone"
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _location, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not str(key).isdigit():
            raise TraceError(f"{self._where}: unknown storage {pid!r}")
        if key not in self._storages:
            content = self._archive.read(f"{self._root}data/{key}")
            self._storages[key] = np.frombuffer(content, dtype)
        data = self._storages[key]
        if data.dtype != dtype or len(data) != count:
            raise TraceError(
                f"{self._where}: storage {key} has {len(data)} items of {data.dtype}, not {count} of {dtype}"
            )
        return data

    def _rebuild(
        self, storage: Any, offset: int, shape: tuple, stride: tuple, *_rest
    ) -> np.ndarray:
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        inside = min((*shape, *stride, offset, 0)) >= 0 and (0 in shape or last < len(storage))
        if not isinstance(storage, np.ndarray) or not inside:
            raise TraceError(f"{self._where}: a tensor reaches outside its storage")
        size = math.prod(shape)
        taken = self._taken[id(storage)] = self._taken.get(id(storage), 0) + size
        if size > len(storage) or taken > MOST_USES * len(storage):
            raise TraceError(
                f"{self._where}: a tensor of shape {shape} claims more than its storage holds (an expanded "
                "tensor?). Save it with .contiguous()"
            )
        steps = [s * storage.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
