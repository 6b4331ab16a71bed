"""What a run may use: one frozen value, whether written as options, keywords, a file or environment variables."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from offload.config_file import read_config_file
from offload.experts.precision_name import CHOICES, parse_precision
from offload.sizes import parse_count, parse_size
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

_OF_DRIVES: Final = ("attention", "dense_layers", "write_back", "x_cache")
"""Settings that say nothing without a computational drive."""

_POLICY: Final = "expected_use"
_KV_POLICY: Final = "spaced"
_PREFIX: Final = "OFFLOAD_"
_DEVICE: Final = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The memory that a model may use. Sizes are bytes; ``None`` leaves the size to the planner.

    ``device`` is ``cpu``, ``cuda`` or ``cuda:N``. ``nvme_dir`` is where the nvme tier keeps its files; without it there
    is no nvme tier. ``csd`` counts computational drives, in which the KV cache then lives; ``attention`` (one of
    ATTENTION) says how they attend, ``compression`` which share of it is enough for those that read a part,
    ``dense_layers`` in which layers these read everything. ``write_back`` tokens at a time go to the drives, the newest
    staying in the host until then; 0 sends each with its query. Of these writes the share ``x_cache`` stores what keys
    and values are made of. ``batch`` counts sequences. ``dtype`` and ``experts`` say what the model must be stored in.
    ``policy`` says which expert has to leave the device, ``kv_policy`` which KV block has to leave a tier,
    ``predictor`` which experts will be needed, ``miss_precision`` (one of MISS_PRECISIONS) which copy will do where
    there are two; all but "high" change tokens. Raises InvalidOptionError.
    """

    device: str = "cpu"
    device_memory: int | None = None
    host_memory: int | None = None
    nvme_dir: Path | None = None
    nvme_memory: int | None = None
    csd: int = 0
    attention: str = "auto"
    compression: float = 1 / 4
    dense_layers: tuple[int, ...] = ()
    write_back: int = 0
    x_cache: float = 0.0
    dtype: str = "auto"
    experts: str = "auto"
    policy: str = _POLICY
    kv_policy: str = _KV_POLICY
    predictor: str = "next_gate"
    miss_precision: str = "high"
    batch: int = 1

    def __post_init__(self) -> None:
        for key in KEYS:
            value = getattr(self, key)
            if value is not None:
                _read(key, value, label=key)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _OF_DRIVES and value != field.default and not self.csd:
                raise InvalidOptionError(
                    f"{field.name} {value!r} needs a computational drive, and csd is 0; set it to 1 or more"
                )
        if self.dense_layers and self.attention in ("auto", "in-storage"):
            raise InvalidOptionError(
                f"dense_layers {self.dense_layers}: attention '{self.attention}' reads all layers in full; leave them "
                "out, or choose in-storage-sparse"
            )
        if self.x_cache and not self.write_back:
            raise InvalidOptionError(
                f"x_cache {self.x_cache}: inputs are stored in groups of tokens, and write_back is 0; set it, say to 16"
            )


KEYS: Final = tuple(field.name for field in fields(RunConfig))


def load_config(
    explicit: Mapping[str, object],
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    as_options: bool = False,
) -> RunConfig:
    """Settings by precedence: ``explicit``, then ``file`` (TOML or YAML), then ``OFFLOAD_*``, then the defaults.

    A ``None`` in ``explicit`` means that it was not given. ``as_options`` makes messages name the option
    ``--device-memory`` in place of the keyword ``device_memory``. ``environ`` defaults to the process's own. Raises
    InvalidOptionError.
    """
    values = _from_environment(os.environ if environ is None else environ)
    if file is not None:
        for key, value in read_config_file(file).items():
            _check_known(key, where=f"{file}: ")
            values[key] = _read(key, value, label=f"{file}: {key}")
    for key, value in explicit.items():
        label = f"--{key.replace('_', '-')}" if as_options else key
        _check_known(key, where="")
        if value is not None:
            values[key] = _read(key, value, label=label)
    return RunConfig(**values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in environ.items():
        key = name.removeprefix(_PREFIX).lower()
        if not name.startswith(_PREFIX) or not text:
            continue
        if key in KEYS:
            values[key] = _read(key, text, label=name)
        # The environment is shared with other programs: an unknown name is an error only where it looks like a slip.
        elif near := get_close_matches(key, KEYS, n=1, cutoff=0.8):
            raise InvalidOptionError(f"environment: no setting {name}; did you mean {_PREFIX}{near[0].upper()}?")
    return values


def _check_known(key: str, *, where: str) -> None:
    if key in KEYS:
        return
    near = get_close_matches(key, KEYS, n=1)
    cure = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(KEYS)}"
    raise InvalidOptionError(f"{where}no setting '{key}'; {cure}")


def _read(key: str, value: object, *, label: str) -> object:
    try:
        return _READERS[key](value)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{label}: {error}") from None


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
    if value in (_POLICY, _KV_POLICY):
        return str(value)
    from tiers.eviction.registry import POLICIES, find_policy  # which brings numpy

    if isinstance(value, str) and (value in POLICIES or (":" in value and find_policy(value))):
        return value
    raise InvalidOptionError(f"{value!r} is no eviction policy; write one of {', '.join(POLICIES)}")


def _read_predictor(value: object) -> str:
    if isinstance(value, (str, os.PathLike)):
        name = os.fspath(value)
        if name in PREDICTORS or Path(name).suffix == ".npz":
            return name
    raise InvalidOptionError(
        f"{value!r} is no predictor; write one of {', '.join(PREDICTORS)}, or the .npz file of a trained one"
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
    share = 0.0
    if isinstance(value, (int, float)):
        share = float(value)
    elif isinstance(value, str):
        with suppress(ValueError, ZeroDivisionError):
            share = float(Fraction(value))
    if 0 < share <= 1:
        return share
    raise InvalidOptionError(f"{value!r} is no share; write for example 1/8 or 0.125")


def _read_layers(value: object) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    try:
        return tuple(sorted({_read_count(part.strip() if isinstance(part, str) else part, least=0) for part in parts}))
    except InvalidOptionError:
        raise InvalidOptionError(f"{value!r} names no layers; write their numbers from 0, such as 0,1") from None


def _read_write_back(value: object) -> int:
    return _read_count(value, least=0)


def _read_x_cache(value: object) -> float:
    return 0.0 if str(value) in ("0", "0.0") else _read_compression(value)


def _read_batch(value: object) -> int:
    return _read_count(value, least=1)


def _read_count(value: object, *, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return parse_count(str(value), least=least)
    if isinstance(value, str):
        return parse_count(value, least=least)
    raise InvalidOptionError(f"{value!r} is not a count; write a whole number from {least} up")


_READERS: Final[Mapping[str, Callable[[object], object]]] = MappingProxyType(
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
        "kv_policy": _read_policy,
        "predictor": _read_predictor,
        "miss_precision": _read_miss_precision,
        "batch": _read_batch,
    }
)
