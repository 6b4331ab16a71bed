"""The compute device that was asked for: whether it is there and what it can spare."""

import psutil

from tiers.errors import InvalidOptionError


def require_device(name: str) -> None:
    """Raises InvalidOptionError for a device that this machine does not have, or that we cannot drive yet."""
    if name == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise InvalidOptionError(f"--device {name}: no CUDA device is usable here; use --device cpu")
    raise InvalidOptionError(f"--device {name}: CUDA tiers are not part of this release; use --device cpu")


def available_bytes(name: str) -> int:
    """What may be used of the device's memory where no budget was given: four fifths of what is free."""
    require_device(name)
    return int(psutil.virtual_memory().available * 4 // 5)
