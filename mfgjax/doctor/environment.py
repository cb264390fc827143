"""What mfgjax finds on this machine: devices, versions, precision, memory, optional packages."""

import dataclasses
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

REQUIRED = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "equinox",
    "xarray",
    "safetensors",
    "typer",
    "flax",
    "optax",
)
OPTIONAL = {
    "mfgjax-extract": "traces of your own models",
    "torch": "mfgjax-extract",
    "transformers": "mfgjax-extract",
}
"""Packages that mfgjax does without, and what needs them. Looked up, never imported."""
SETTINGS = (
    "JAX_PLATFORMS",
    "JAX_ENABLE_X64",
    "JAX_COMPILATION_CACHE_DIR",
    "XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES",
)


@dataclasses.dataclass(frozen=True)
class Environment:
    """What is there.

    Attributes:
        versions: of mfgjax, Python and what mfgjax needs.
        optional: of packages that it can do without; None where one is missing.
        devices: per device its platform, kind, and memory in bytes (None where it does not say).
        host_memory: bytes of memory of the machine; None where it does not say.
        x64: whether float64 is on by default (`JAX_ENABLE_X64`).
        matmul_precision: jax's default; None leaves it to the device.
        settings: environment variables that change what jax does, where set.
        advice: what to do about what was found.
    """

    versions: dict[str, str]
    optional: dict[str, str | None]
    devices: list[dict[str, Any]]
    host_memory: int | None
    x64: bool
    matmul_precision: str | None
    settings: dict[str, str]
    advice: list[str]


def inspect_environment() -> Environment:
    """Look around. Nothing is changed and nothing is sent anywhere."""
    versions = {
        "mfgjax": _version("mfgjax") or "not installed",
        "python": platform.python_version(),
    }
    versions |= {name: _version(name) or "missing" for name in REQUIRED}
    settings: Any = jax.config  # its attributes are made at run time
    devices = [_device(device) for device in jax.devices()]
    return Environment(
        versions=versions,
        optional={name: _version(name) for name in OPTIONAL},
        devices=devices,
        host_memory=_host_memory(),
        x64=bool(settings.jax_enable_x64),
        matmul_precision=settings.jax_default_matmul_precision,
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
        advice=_advice({device["platform"] for device in devices}),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(device) -> dict[str, Any]:
    memory = device.memory_stats() or {}
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "memory": memory.get("bytes_limit"),
        "in_use": memory.get("bytes_in_use"),
    }


def _host_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def _advice(platforms: set[str]) -> list[str]:
    advice = []
    if Path("/proc/driver/nvidia/version").exists() and platforms == {"cpu"}:
        advice.append(
            "There is an NVIDIA driver, but jax uses the CPU: pip install 'jax[cuda13]' (or cuda12), "
            "and see that JAX_PLATFORMS does not say cpu."
        )
    if platforms == {"cpu"}:
        advice.append("No accelerator: everything runs on the CPU, which is enough for track.")
    return advice
