"""What a benchmark ran on, for the record beside its numbers."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import jax


def environment() -> dict:
    """Device, versions and command of this process."""
    device = jax.devices()[0]
    return {
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "numpy", "scipy", "equinox")},
    }


def _module() -> str:
    """Name of the running module: `sys.argv[0]` would be a path of this machine."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
