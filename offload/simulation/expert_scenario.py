"""A scenario of experts: recorded or made-up routing of a mixture, policies, predictors, and room for some experts."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from offload.config_values import PREDICTORS
from offload.simulation.expert_case import ExpertCase
from offload.simulation.scenario_file import read_policies, read_price
from offload.simulation.values import check_keys, mapping, near, number, read_tiers, suggest, text
from prefetch.path_file import PathFile
from prefetch.routing_path import RoutingPath
from prefetch.third_party import find_predictor, is_third_party
from simulators.expert_costs import ExpertCosts
from simulators.expert_experiment import check_trace
from simulators.expert_setting import ExpertSetting
from simulators.expert_trace import ExpertTrace
from simulators.model_costs import ModelShape, read_model_shape
from simulators.profile import HardwareProfile
from simulators.published import find_published, load_profile
from simulators.routing_generator import RoutingShape, generate_routing
from simulators.running_costs import PriceTerms
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError, UsageError
from tiers.eviction.registry import find_policy

KEYS = ("hardware", "model", "experts", "tiers", "policies", "policy", "predictors", "predictor", "price")
EXPERT_KEYS = ("trace", "requests", "prompt_tokens", "new_tokens", "seed", *(one.name for one in fields(RoutingShape)))
EXPERT_SWEPT = ("hardware", "model", "tiers")
"""Keys that may hold a list, as in ``axes.SWEPT``; ``policies`` and ``predictors`` always may."""
_COUNTS = {"requests": 4, "prompt_tokens": 16, "new_tokens": 32}
_LEVELS = ("device", "host")


def is_expert_scenario(settings: Mapping[str, object]) -> bool:
    """Whether a file is one of these."""
    return "experts" in settings


class ExpertCases:
    """Cases of the scenario file at ``path``; what files hold is read once for all of them, and so is routing made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._traces: dict[object, ExpertTrace] = {}
        self._trained: dict[tuple[str, str], PathFile] = {}

    def read(self, settings: Mapping[str, object]) -> ExpertCase:
        """What ``settings``, without lists, say. InvalidOptionError names the file, the key and what is near."""
        try:
            return self._read(settings, self._path.parent)
        except UsageError as error:
            raise type(error)(f"{self._path}: {error}") if isinstance(error, InvalidOptionError) else error from None

    def in_bytes(self, settings: Mapping[str, object]) -> dict[str, object]:
        """The same with bytes in the place of shares, also in lists and ranges. Raises as ``read``.

        InvalidOptionError for shares of the experts of several models, and for models that cannot be read.
        """
        tiers = settings.get("tiers")
        if not isinstance(tiers, Mapping) or not any(_has_share(value) for value in tiers.values()):
            return dict(settings)
        model = settings.get("model")
        models = model if isinstance(model, list) else [model]
        if not models:
            return dict(settings)  # whoever reads lists says so
        if len(models) != 1:
            message = "tiers: a share is of the experts of one model, and here are several; write bytes"
            raise InvalidOptionError(f"{self._path}: {message}")
        try:
            whole = _nbytes_of_experts(self._shape(models[0]))
            sizes = {level: _all_in_bytes(f"tiers.{level}", value, whole) for level, value in tiers.items()}
        except InvalidOptionError as error:
            raise InvalidOptionError(f"{self._path}: {error}") from None
        return {**settings, "tiers": sizes}

    def _read(self, settings: Mapping[str, object], folder: Path) -> ExpertCase:
        check_keys("", settings, KEYS)
        for key in ("hardware", "model", "tiers"):
            if key not in settings:
                raise InvalidOptionError(f"'{key}' is missing; a scenario of experts has hardware, model and tiers")
        hardware, model = text("hardware", settings["hardware"]), text("model", settings["model"])
        profile = load_profile(near(folder, hardware))
        shape = self._shape(model)
        tiers = _read_tiers(mapping("tiers", settings["tiers"]), _nbytes_of_experts(shape))
        if "host" in tiers and profile.unified_memory:
            raise InvalidOptionError(
                f"tiers: 'host': device and host are one memory in the profile '{profile.name}'; "
                "give its bytes to 'device'"
            )
        trace = self._trace(mapping("experts", settings["experts"]), folder, shape)
        check_trace(trace, ExpertCosts(shape, profile))
        policies = tuple(read_policies(settings))
        for name in policies:
            find_policy(name, ExpertKey)
        predictors = _read_predictors(settings, trace, folder)
        setting = ExpertSetting(trace, profile, shape, tiers, _price(settings, profile))
        head = {"hardware": hardware, "model": model, "tiers": tiers}
        trained = {name: self._read_trained(name, trace) for name in predictors if Path(name).suffix == ".npz"}
        return ExpertCase(head, setting, policies, predictors, trained)

    def _shape(self, model: object) -> ModelShape:
        name = text("model", model)
        shape = read_model_shape(find_published("models", near(self._path.parent, name)))
        if shape.experts == 1:
            raise InvalidOptionError(f"model: '{name}' has no experts; choose a mixture of experts")
        return shape

    def _trace(self, given: Mapping[str, object], folder: Path, shape: ModelShape) -> ExpertTrace:
        check_keys("experts.", given, EXPERT_KEYS)
        if "trace" in given:
            for key in given:
                if key != "trace":
                    raise InvalidOptionError(f"experts.{key}: is of made-up routing; leave it or the trace out")
            path = Path(near(folder, text("experts.trace", given["trace"])))
            return self._kept(path, lambda: ExpertTrace.load(path))
        counts = {
            key: int(number(f"experts.{key}", given.get(key, count), is_whole=True)) for key, count in _COUNTS.items()
        }
        seed = int(number("experts.seed", given.get("seed", 0), is_whole=True, least=0))
        shares = {
            one.name: number(f"experts.{one.name}", given[one.name], is_whole=False, least=0)
            for one in fields(RoutingShape)
            if one.name in given
        }
        requests = [(counts["prompt_tokens"], counts["new_tokens"])] * counts["requests"]
        layers, experts, top_k = shape.layers - shape.dense_layers, shape.experts, shape.experts_per_token
        return self._kept(
            (layers, experts, top_k),
            lambda: generate_routing(requests, layers, experts, top_k, shape=RoutingShape(**shares), seed=seed),
        )

    def _read_trained(self, name: str, trace: ExpertTrace) -> PathFile:
        key = name, trace.model
        if key not in self._trained:
            self._trained[key] = RoutingPath.load(Path(name), trace.model).file
        return self._trained[key]

    def _kept(self, key: object, make: Callable[[], ExpertTrace]) -> ExpertTrace:
        if key not in self._traces:
            self._traces[key] = make()
        return self._traces[key]


def _price(settings: Mapping[str, object], profile: HardwareProfile) -> PriceTerms:
    terms = read_price(settings.get("price", {}))
    if terms.given and profile.price is None:
        raise InvalidOptionError(
            f"price: the profile '{profile.name}' has no prices; add 'price' to it, or leave price out"
        )
    return terms


def _nbytes_of_experts(shape: ModelShape) -> int:
    return shape.routed_experts * shape.expert_nbytes


def _read_tiers(given: Mapping[str, object], whole: int) -> dict[str, int]:
    """Bytes by level; a share, such as ``25%``, is of ``whole``."""
    if "nvme" in given:
        raise InvalidOptionError("tiers: 'nvme': all experts lie on the drive; leave it out")
    check_keys("tiers.", given, _LEVELS)
    if "device" not in given:
        raise InvalidOptionError("tiers: 'device' is missing; say how many bytes of it hold experts")
    return read_tiers({name: _of_all(f"tiers.{name}", given[name], whole) for name in _LEVELS if name in given})


def _all_in_bytes(key: str, value: object, whole: int) -> object:
    """A size, a list of sizes, or a range."""
    if isinstance(value, list):
        return [_of_all(key, one, whole) for one in value]
    if isinstance(value, Mapping):
        return {name: _of_all(f"{key}.{name}", one, whole) for name, one in value.items()}
    return _of_all(key, value, whole)


def _has_share(value: object) -> bool:
    inner = value if isinstance(value, list) else value.values() if isinstance(value, Mapping) else [value]
    return any(isinstance(one, str) and one.endswith("%") for one in inner)


def _of_all(key: str, value: object, whole: int) -> object:
    if not isinstance(value, str) or not value.endswith("%"):
        return value
    try:
        percent = float(value.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise InvalidOptionError(f"{key}: {value!r} is no share of the experts; write 25%, or bytes such as 12GiB")
    return round(whole * percent / 100)


def _read_predictors(settings: Mapping[str, object], trace: ExpertTrace, folder: Path) -> tuple[str, ...]:
    value = settings.get("predictors", settings.get("predictor", ["none"]))
    names = [str(name) for name in value] if isinstance(value, list) else [str(value)]
    if not names or not isinstance(value, (list, str)):
        raise InvalidOptionError(f"predictors: {value!r} is no list of names; write [none, popularity]")
    found = []
    for name in names:
        if name == "next_gate" and not (trace.gates.size and trace.gate_inputs.size):
            raise InvalidOptionError(
                "predictors: next_gate asks the gates, and the trace holds neither them nor what they were given; "
                "leave it out, or record a trace with 'offload trace record'"
            )
        if is_third_party(name):
            find_predictor(name)
        elif Path(name).suffix != ".npz" and name not in PREDICTORS:
            raise InvalidOptionError(f"predictors: '{name}' is unknown; {suggest(name, PREDICTORS)}")
        found.append(near(folder, name))
    return tuple(dict.fromkeys(found))
