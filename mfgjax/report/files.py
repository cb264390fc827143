"""Results as files, each there whole or not at all; as JSON, in which every number is finite; and as pages."""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name `path` when the block ends well.

    Whatever stops the block, Ctrl-C included, leaves neither a half-written file under the name
    nor the partial one beside it; a file that was there before stays as it was. The partial file has
    a name of its own: where two processes write one name, each file is whole, and the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write text (UTF-8) or bytes under `path`, whole or not at all; returns the path."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def plain(value: Any) -> Any:
    """A value of lists, mappings, arrays and frames, ready for `json.dumps(..., allow_nan=False)`.

    JSON has neither NaN nor infinity: numbers that are missing, and ends of intervals that have no
    end, become None. Needs no library, so that commands start without any.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "to_dict"):  # a frame, as rows
        return plain(value.to_dict("records"))
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and jax
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def page_template(package: str, name: str) -> "jinja2.Template":
    """A page's template beside the code of `package`; what is put in is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)
