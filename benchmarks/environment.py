"""What a benchmark ran on, for the record beside its numbers."""

import os
import platform
import sys
from importlib.metadata import version

import jax


def environment() -> dict:
    """Device, versions and command of this process."""
    device = jax.devices()[0]
    return {
        "command": " ".join(["python", "-m", *sys.argv]),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "numpy", "scipy", "equinox")},
    }
