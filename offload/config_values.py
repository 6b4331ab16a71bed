"""What may be written for each setting of a run, and how it is read."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Final

from offload.experts.precision_name import CHOICES, parse_precision
from offload.sizes import parse_count, parse_size
from tiers.block import BlockKey, ExpertKey, KVBlockKey
from tiers.errors import InvalidOptionError

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
"""``auto`` keeps the type in which the model is stored."""

EXPERTS: Final = ("auto", "stored", *CHOICES)
"""``auto`` takes experts as the model has them, ``stored`` insists on those of the checkpoint. What else ``offload
pack`` may be asked for is known here too: two precisions, joined by a ``+``."""

MISS_PRECISIONS: Final = ("high", "mixed", "low")
"""Which copy of an expert to use where a packed store has two: always the exact one; the other in place of a missing
one that adds little; or wherever it adds little, missing or not."""

ATTENTION: Final = ("auto", "in-storage", "in-storage-sparse", "in-storage-sparf")
"""Where older tokens are attended to: ``auto`` is ``in-storage`` where there are computational drives. The last two
read a part of them only, and change tokens: by whole pages, and by tokens as InstAttention does."""

PREDICTORS: Final = ("none", "next_gate", "popularity", "activation_matrix")
"""Of experts, by name; a trained one is a file."""

POLICY: Final = "expected_use"
"""Of experts, where none is named."""

KV_POLICY: Final = "spaced"
"""Of KV blocks, likewise."""

_SWITCH: Final = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}

_DEVICE: Final = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


def _read_device(value: object) -> str:
    if isinstance(value, str) and _DEVICE.fullmatch(value):
        return value
    raise InvalidOptionError(f"{value!r} is not a device; write cpu, cuda or cuda:0")


def _read_size(value: object) -> int:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise InvalidOptionError(f"{value!r} is not a size; write it like '64MiB' or '8GiB'")


def _read_directory(value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise InvalidOptionError(f"{value!r} is not a directory; write a path")
    try:
        path = Path(value).expanduser()
        is_file = path.exists() and not path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidOptionError(f"{str(value)!r} cannot be used ({error}); name a directory") from None
    if is_file:
        raise InvalidOptionError(f"{path} is a file; name a directory")
    return path


def _read_dtype(value: object) -> str:
    if isinstance(value, str) and value in DTYPES:
        return value
    raise InvalidOptionError(f"{value!r} is not a data type that a run can use; write one of {', '.join(DTYPES)}")


def _read_experts(value: object) -> str:
    if isinstance(value, str) and value in EXPERTS:
        return value
    if isinstance(value, str) and "+" in value:
        try:
            parse_precision(value)
        except InvalidOptionError as error:
            raise InvalidOptionError(f"{value!r} is {error}") from None
        return value
    raise InvalidOptionError(f"{value!r} is no precision of experts; write one of {', '.join(EXPERTS)}")


def _read_policy(value: object) -> str:
    return _policy_of(value, ExpertKey)


def _read_kv_policy(value: object) -> str:
    return _policy_of(value, KVBlockKey)


def _policy_of(value: object, keys: type[BlockKey]) -> str:
    if value in (POLICY, KV_POLICY):
        return str(value)
    from tiers.eviction.registry import POLICIES, find_policy  # which brings numpy

    if isinstance(value, str) and (value in POLICIES or (":" in value and find_policy(value, keys))):
        return value
    raise InvalidOptionError(f"{value!r} is no eviction policy; write one of {', '.join(POLICIES)}")


def _read_predictor(value: object) -> str:
    if isinstance(value, (str, os.PathLike)):
        name = os.fspath(value)
        if name in PREDICTORS or Path(name).suffix == ".npz":
            return name
        if ":" in name:
            from prefetch.third_party import find_predictor  # which brings numpy

            find_predictor(name)
            return name
    raise InvalidOptionError(
        f"{value!r} is no predictor; write one of {', '.join(PREDICTORS)}, the .npz file of a trained one, or "
        "my_module:MyPredictor"
    )


def _read_miss_precision(value: object) -> str:
    if isinstance(value, str) and value in MISS_PRECISIONS:
        return value
    raise InvalidOptionError(f"{value!r} is no precision on a miss; write one of {', '.join(MISS_PRECISIONS)}")


def _read_csd(value: object) -> int:
    return _read_count(value, least=0)


def _read_attention(value: object) -> str:
    if isinstance(value, str) and value in ATTENTION:
        return value
    raise InvalidOptionError(f"{value!r} is no way to attend; write one of {', '.join(ATTENTION)}")


def _read_compression(value: object) -> float:
    share = _share(value)
    if share is not None and 0 < share <= 1:
        return share
    raise _no_share(value)


def _read_layers(value: object) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    try:
        return tuple(sorted({_read_count(part.strip() if isinstance(part, str) else part, least=0) for part in parts}))
    except InvalidOptionError:
        raise InvalidOptionError(f"{value!r} names no layers; write their numbers from 0, such as 0,1") from None


def _read_write_back(value: object) -> int:
    return _read_count(value, least=0)


def _read_x_cache(value: object) -> float:
    share = _share(value)
    if share is not None and 0 <= share <= 1:
        return share
    raise _no_share(value)


def _share(value: object) -> float | None:
    """The number that stands for a share, such as 1/8; None for what is no number."""
    with suppress(ValueError, ZeroDivisionError, OverflowError):
        if isinstance(value, str):
            return float(Fraction(value) if "/" in value else value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def _no_share(value: object) -> InvalidOptionError:
    return InvalidOptionError(f"{value!r} is no share; write for example 1/8 or 0.125")


def _read_batch(value: object) -> int:
    return _read_count(value, least=1)


def _read_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    raise InvalidOptionError(f"{value!r} is neither on nor off; write true or false")


def _read_count(value: object, *, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return parse_count(str(value), least=least)
    if isinstance(value, str):
        return parse_count(value, least=least)
    raise InvalidOptionError(f"{value!r} is not a count; write a whole number from {least} up")


READERS: Final[Mapping[str, Callable[[object], object]]] = MappingProxyType(
    {
        "device": _read_device,
        "device_memory": _read_size,
        "host_memory": _read_size,
        "nvme_dir": _read_directory,
        "nvme_memory": _read_size,
        "csd": _read_csd,
        "attention": _read_attention,
        "compression": _read_compression,
        "dense_layers": _read_layers,
        "write_back": _read_write_back,
        "x_cache": _read_x_cache,
        "dtype": _read_dtype,
        "experts": _read_experts,
        "policy": _read_policy,
        "kv_policy": _read_kv_policy,
        "predictor": _read_predictor,
        "miss_precision": _read_miss_precision,
        "batch": _read_batch,
        "cuda_graphs": _read_switch,
    }
)
