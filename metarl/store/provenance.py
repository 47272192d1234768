"""Provenance of a result: software and hardware."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from metarl._version import __version__
from metarl.common.cores import available_cores

_PACKAGES = ("torch", "gymnasium", "mujoco", "numpy")


def provenance(device: torch.device) -> dict[str, str]:
    """Returns version, commit (if this is a checkout), packages and hardware."""
    facts = {
        "version": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
    }
    facts |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    facts["hardware"] = f"{available_cores()} cores, {_processor()}"
    if device.type == "cuda":
        facts["hardware"] += f", {torch.cuda.get_device_name(device)}"
    return facts


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "not a checkout"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
