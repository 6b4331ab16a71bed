"""A scenario of experts: recorded or made-up routing of a mixture, policies, predictors, and room for some experts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from offload.config_values import PREDICTORS
from offload.experts.predictors import make_predictor
from offload.simulation.scenario_file import read_policies, read_price
from offload.simulation.values import check_keys, mapping, near, number, read_tiers, suggest, text
from prefetch.expert_predictor import ExpertPredictor
from prefetch.third_party import find_predictor, is_third_party
from simulators.expert_costs import ExpertCosts
from simulators.expert_experiment import check_trace
from simulators.expert_setting import ExpertSetting
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of
from simulators.model_costs import ModelShape, read_model_shape
from simulators.profile import HardwareProfile
from simulators.published import find_published, load_profile
from simulators.routing_generator import RoutingShape, generate_routing
from simulators.running_costs import PriceTerms
from tiers.errors import InvalidOptionError, UsageError
from tiers.eviction.registry import find_policy

KEYS = ("hardware", "model", "experts", "tiers", "policies", "policy", "predictors", "predictor", "price")
EXPERT_KEYS = ("trace", "requests", "prompt_tokens", "new_tokens", "seed", *(one.name for one in fields(RoutingShape)))
EXPERT_SWEPT = ("hardware", "model", "tiers.device", "tiers.host")
"""Keys that may hold a list; ``policies`` and ``predictors`` always may."""
_COUNTS = {"requests": 4, "prompt_tokens": 16, "new_tokens": 32}
_LEVELS = ("device", "host")


@dataclass(frozen=True, slots=True)
class ExpertCase:
    """One setting, and the names of the policies and predictors of its rows."""

    head: Mapping[str, object]
    """How its rows begin."""
    setting: ExpertSetting
    policies: tuple[str, ...]
    predictors: tuple[str, ...]

    def make_predictor(self, name: str) -> ExpertPredictor | None:
        """A new one, which knows of the trace what it would know of a run. Raises as ``make_predictor`` does."""
        trace = self.setting.trace
        gates = dict(zip(trace.layers.tolist(), trace.gates, strict=True)) if trace.gates.size else {}
        top_k = trace.experts.shape[2]
        return make_predictor(name, keys_of(trace), top_k, lambda: gates, lambda: trace.model)


def is_expert_scenario(settings: Mapping[str, object]) -> bool:
    """Whether a file is one of these."""
    return "experts" in settings


class ExpertCases:
    """Cases of the scenario file at ``path``; a trace is read, or made, once for all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._traces: dict[object, ExpertTrace] = {}

    def read(self, settings: Mapping[str, object]) -> ExpertCase:
        """What ``settings``, without lists, say. InvalidOptionError names the file, the key and what is near."""
        try:
            return self._read(settings, self._path.parent)
        except UsageError as error:
            raise type(error)(f"{self._path}: {error}") if isinstance(error, InvalidOptionError) else error from None

    def _read(self, settings: Mapping[str, object], folder: Path) -> ExpertCase:
        check_keys("", settings, KEYS)
        for key in ("hardware", "model", "tiers"):
            if key not in settings:
                raise InvalidOptionError(f"'{key}' is missing; a scenario of experts has hardware, model and tiers")
        hardware, model = text("hardware", settings["hardware"]), text("model", settings["model"])
        profile = load_profile(near(folder, hardware))
        shape = read_model_shape(find_published("models", near(folder, model)))
        if shape.experts == 1:
            raise InvalidOptionError(f"model: '{model}' has no experts; choose a mixture of experts")
        costs = ExpertCosts(shape, profile)
        tiers = _read_tiers(mapping("tiers", settings["tiers"]), costs)
        if "host" in tiers and profile.unified_memory:
            raise InvalidOptionError(
                f"tiers: 'host': device and host are one memory in the profile '{profile.name}'; "
                "give its bytes to 'device'"
            )
        trace = self._trace(mapping("experts", settings["experts"]), folder, shape)
        check_trace(trace, costs)
        policies = tuple(read_policies(settings))
        for name in policies:
            find_policy(name)
        predictors = _read_predictors(settings, trace, folder)
        setting = ExpertSetting(trace, profile, shape, tiers, _price(settings, profile))
        head = {"hardware": hardware, "model": model, "tiers": tiers}
        return ExpertCase(head, setting, policies, predictors)

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


def _read_tiers(given: Mapping[str, object], costs: ExpertCosts) -> dict[str, int]:
    """Bytes by level; a share, such as ``25%``, is of all experts."""
    if "nvme" in given:
        raise InvalidOptionError("tiers: 'nvme': all experts lie on the drive; leave it out")
    check_keys("tiers.", given, _LEVELS)
    if "device" not in given:
        raise InvalidOptionError("tiers: 'device' is missing; say how many bytes of it hold experts")
    whole = costs.num_experts * costs.expert_nbytes
    return read_tiers({name: _of_all(f"tiers.{name}", given[name], whole) for name in _LEVELS if name in given})


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
