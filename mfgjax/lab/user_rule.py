"""A rule of the user's own, from a file."""

import dataclasses
import hashlib
import importlib.util
import traceback
from pathlib import Path

from mfgjax.lab.rule import Rule


def read_rule(path: Path) -> Rule:
    """`RULE` of a Python file, which is run.

    Raises:
        ValueError: no such file, a file that fails, or one without a `RULE`; names file and line.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(blame(error, path) or f"{path}: {error}") from None
    rule = getattr(module, "RULE", None)
    if not isinstance(rule, Rule):
        raise ValueError(
            f"{path}: defines no RULE = Rule(...). docs/how-to/lab.md has one to start from."
        )
    return dataclasses.replace(rule, digest=hashlib.sha256(path.read_bytes()).hexdigest())


def blame(error: BaseException, path: Path) -> str | None:
    """What went wrong in the user's file, with its line; None where the error is not from there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if not frames:
        return None
    return f"{path}, line {frames[-1].lineno}: {type(error).__name__}: {error}"
