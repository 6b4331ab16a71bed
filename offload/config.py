"""What a run may use: one frozen value, whether written as options, keywords, a file or environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from offload.config_file import read_config_file
from offload.config_values import KV_POLICY, POLICY, READERS
from tiers.errors import InvalidOptionError

_OF_DRIVES: Final = ("attention", "compression", "dense_layers", "write_back", "x_cache")
"""Settings that say nothing without a computational drive."""

_EXACT: Final = ("auto", "in-storage")
"""Ways to attend that read everything."""

_COMPRESSION: Final = 1 / 4
_PREFIX: Final = "OFFLOAD_"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The memory that a model may use. Sizes are bytes; ``None`` leaves the size to the planner.

    ``device`` is ``cpu``, ``cuda`` or ``cuda:N``. ``nvme_dir`` is where the nvme tier keeps its files; without it there
    is no nvme tier. ``csd`` counts computational drives, in which the KV cache then lives; ``attention`` says how they
    attend, ``compression`` which share of it is enough for those that read a part, ``dense_layers`` in which layers
    these read everything. ``write_back`` tokens at a time go to the drives, the newest staying in the host until then;
    0 sends each with its query. Of these writes the share ``x_cache`` stores what keys and values are made of.
    ``batch`` counts sequences. ``dtype`` and ``experts`` say what the model must be stored in. ``policy`` says which
    expert has to leave the device, ``kv_policy`` which KV block has to leave a tier, ``predictor`` which experts will
    be needed, ``miss_precision`` which copy will do where there are two; all but "high" change tokens. The names to
    choose from are in ``offload.config_values``. ``cuda_graphs``: decode steps are replayed by the GPU alone, where all
    that they need stays there. Raises InvalidOptionError.
    """

    device: str = "cpu"
    device_memory: int | None = None
    host_memory: int | None = None
    nvme_dir: Path | None = None
    nvme_memory: int | None = None
    csd: int = 0
    attention: str = "auto"
    compression: float = _COMPRESSION
    dense_layers: tuple[int, ...] = ()
    write_back: int = 0
    x_cache: float = 0.0
    dtype: str = "auto"
    experts: str = "auto"
    policy: str = POLICY
    kv_policy: str = KV_POLICY
    predictor: str = "next_gate"
    miss_precision: str = "high"
    batch: int = 1
    cuda_graphs: bool = False

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
        if self.cuda_graphs and self.device == "cpu":
            raise InvalidOptionError(
                "cuda_graphs: device 'cpu' has no CUDA graphs; leave it out, or set device to cuda"
            )
        if self.attention in _EXACT:
            self._check_exact()
        if self.x_cache and not self.write_back:
            raise InvalidOptionError(
                f"x_cache {self.x_cache}: inputs are stored in groups of tokens, and write_back is 0; set it, say to 16"
            )

    def _check_exact(self) -> None:
        """Raises InvalidOptionError where something is said of reading a part, and everything is read."""
        if self.dense_layers:
            raise InvalidOptionError(
                f"dense_layers {self.dense_layers}: attention '{self.attention}' reads all layers in full; leave them "
                "out, or choose in-storage-sparse"
            )
        if self.compression != _COMPRESSION:
            raise InvalidOptionError(
                f"compression {self.compression!r}: attention '{self.attention}' reads everything; leave it out, or "
                "choose in-storage-sparse"
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
        return READERS[key](value)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{label}: {error}") from None
