"""What a run may use of each memory: as given, else what this machine can spare. For a machine elsewhere, as given."""

from offload.config import RunConfig
from offload.device import MemoryKind, available_bytes, available_host_bytes, is_gpu, memory_kind, require_device
from offload.plan import Budgets
from offload.sizes import format_size
from simulators.profile import HardwareProfile
from tiers.errors import InvalidOptionError


def budgets_here(config: RunConfig) -> Budgets:
    """On this machine.

    Raises InvalidOptionError for a device that is not there, for a second budget of one memory, and for the budget of a
    drive without a directory.

    A processor is given a host tier where one is asked for: a way to try three tiers out, which copies within RAM.
    """
    require_device(config.device)
    if config.nvme_memory and config.nvme_dir is None and not config.csd:
        raise InvalidOptionError(
            f"--nvme-memory {format_size(config.nvme_memory)}: no directory to use it in; name one with --nvme-dir"
        )
    kind = memory_kind(config.device)
    if kind is MemoryKind.SHARED:
        _check_one_budget(config, config.device)
    device_bytes = config.device_memory if config.device_memory is not None else available_bytes(config.device)
    host_bytes = config.host_memory if config.host_memory is not None else available_host_bytes(config.device)
    return Budgets(device_bytes, host_bytes, _nvme_bytes(config), host_is_apart=kind is MemoryKind.OWN)


def budgets_on(config: RunConfig, profile: HardwareProfile) -> Budgets:
    """On the machine of ``profile``, of which nothing is known but its speeds: so budgets have to be given.

    Raises InvalidOptionError where one is missing, or is a second one of one memory.
    """
    if config.device_memory is None:
        raise InvalidOptionError(
            f"--device-memory: not given, and '{profile.name}' is not this machine; say how much of it may be used"
        )
    if profile.unified_memory:
        _check_one_budget(config, profile.name)
    is_apart = is_gpu(profile.device) and not profile.unified_memory
    # Its drive has directories of its own, so none of this machine has to be named.
    nvme_bytes = _nvme_bytes(config) if config.nvme_memory is None else config.nvme_memory
    return Budgets(config.device_memory, config.host_memory or None, nvme_bytes, host_is_apart=is_apart)


def _nvme_bytes(config: RunConfig) -> int | None:
    return config.nvme_memory if config.nvme_dir is not None else 0


def _check_one_budget(config: RunConfig, where: str) -> None:
    if config.host_memory:
        given = config.device_memory
        total = "" if given is None else f" (--device-memory {format_size(given + config.host_memory)})"
        raise InvalidOptionError(
            f"--host-memory {format_size(config.host_memory)}: device and host are one memory on {where}; "
            f"give all of it to the device{total} and leave it out"
        )
