"""FlexGen's block schedule (arXiv 2303.06865, appendix A.3) and those of the two systems it was compared with.

A block of batches goes through a layer together, so that a layer is loaded once for all of them; what the layer needs
next, and what it leaves behind, moves meanwhile. The paper takes the slowest of all movers and the computation as the
time of a layer. The cost model that its authors released is a little less hopeful, and is what is used here: in a
prefill what comes from the drive is added to what crosses to the device, and in a decode step the layer waits for the
weights.
"""

from dataclasses import dataclass

from simulators.link_costs import staged_s
from simulators.profile import HardwareProfile

_GIB = 2**30
COMPRESSED = 4.5 / 16
"""4 bits a number, and two FP16 for each group of 64."""


@dataclass(frozen=True, slots=True)
class OPT:
    """A model in FP16 with heads that are not grouped and feed-forward layers of four times the width."""

    name: str
    layers: int
    hidden: int
    vocabulary: int = 50_272

    @property
    def layer_nbytes(self) -> float:
        """Of weights; also the FLOP that a token takes in a layer, two for each weight of two bytes."""
        return 24.0 * self.hidden**2

    @property
    def head_nbytes(self) -> float:
        return 2.0 * self.vocabulary * self.hidden

    def cache_nbytes(self, tokens: float) -> float:
        """Keys and values of one layer."""
        return 4.0 * self.hidden * tokens


@dataclass(frozen=True, slots=True)
class Placement:
    """Shares of the weights, the cache and the activations in the host's memory and on the drive; the rest is near."""

    batch: int
    """Sequences that the device takes at a time."""
    num_batches: int = 1
    """Of them in a block."""
    weights_host: float = 0.0
    weights_drive: float = 0.0
    cache_host: float = 0.0
    cache_drive: float = 0.0
    hidden_host: float = 0.0
    compressed_weights: bool = False
    compressed_cache: bool = False
    host_attends: bool = False
    """Decode attention over what is not near is computed by the processor, in place of moving the cache."""

    @property
    def sequences(self) -> int:
        """The effective batch."""
        return self.batch * self.num_batches


@dataclass(frozen=True, slots=True)
class SoftwareRates:
    """What FlexGen's kernels reach on a T4 and its host: the constants of its released cost model.

    Its authors fitted them to runs of their own on that machine, some of which may be those of the table.
    """

    cache_from_device: float = 0.97 * _GIB
    """Bytes a second: each sequence's piece is copied into place."""
    matmul_prefill: float = 21.24e12
    """FLOP/s; so the next."""
    matmul_decode: float = 4.3e12
    attention_prefill: float = 9.97e12
    attention_decode: float = 0.079e12
    """Bytes of FP16 cache a second, which is as many FLOP; so the next."""
    attention_host: float = 0.0123e12
    decompression_passes: float = 1.0
    """How often each FP16 byte goes over the device's memory until what is compressed can be used."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a whole generation."""

    prefill_s: float
    decode_s: float


def flexgen(model: OPT, at: Placement, machine: HardwareProfile, rates: SoftwareRates, prompt: int, new: int) -> Times:
    """The block schedule: ``new`` tokens for each of ``at.sequences`` prompts of ``prompt`` tokens."""
    prefill_s = _prefill_layer_s(model, at, machine, rates, prompt)
    decode_s = _decode_layer_s(model, at, machine, rates, prompt + new / 2)
    head_s = at.num_batches * model.head_nbytes / _memory(machine)
    return Times(model.layers * prefill_s + head_s, (new - 1) * (model.layers * decode_s + head_s))


def _prefill_layer_s(model: OPT, at: Placement, machine: HardwareProfile, rates: SoftwareRates, prompt: int) -> float:
    tokens = at.sequences * prompt
    weights, cache = _moved_weights(model, at), model.cache_nbytes(tokens) * _share(at.compressed_cache)
    hidden = 2.0 * model.hidden * tokens * at.hidden_host
    to_device_s = (weights + hidden) / machine.bytes_per_s("host->device")
    from_drive_s = weights * _of(at.weights_drive, at.weights_host) / machine.bytes_per_s("nvme->host")
    away = at.cache_host + at.cache_drive
    from_device_s = cache * away / rates.cache_from_device + hidden / machine.bytes_per_s("device->host")
    to_drive_s = cache * at.cache_drive / machine.bytes_per_s("host->nvme")
    matmul_s = max(tokens * model.layer_nbytes / rates.matmul_prefill, _reading_s(model, at, machine))
    attention_s = model.cache_nbytes(tokens) * prompt / rates.attention_prefill
    compute_s = matmul_s + attention_s + _decompression_s(model, at, machine, rates, tokens)
    return max(to_device_s + from_drive_s, from_device_s + to_drive_s, compute_s)


def _decode_layer_s(model: OPT, at: Placement, machine: HardwareProfile, rates: SoftwareRates, context: float) -> float:
    away = at.cache_host + at.cache_drive
    whole = model.cache_nbytes(at.sequences * context)
    cache, new = whole * _share(at.compressed_cache), model.cache_nbytes(at.sequences) * _share(at.compressed_cache)
    hidden = 2.0 * model.hidden * at.sequences * at.hidden_host
    weights = _moved_weights(model, at)
    fetched = 0.0 if at.host_attends else cache * away
    to_device_s = (weights + hidden + fetched) / machine.bytes_per_s("host->device")
    from_device_s = hidden / machine.bytes_per_s("device->host")
    from_drive = weights * _of(at.weights_drive, at.weights_host) + cache * at.cache_drive
    from_drive_s = from_drive / machine.bytes_per_s("nvme->host")
    to_drive_s = new * at.cache_drive / machine.bytes_per_s("host->nvme")
    matmul_s = max(at.sequences * model.layer_nbytes / rates.matmul_decode, _reading_s(model, at, machine))
    by_host = whole * away if at.host_attends else 0.0
    attention_s = (whole - by_host) / rates.attention_decode + by_host / rates.attention_host
    compute_s = matmul_s + attention_s + _decompression_s(model, at, machine, rates, at.sequences * context)
    return to_device_s + max(from_device_s, from_drive_s, to_drive_s, compute_s)


def deepspeed(
    model: OPT,
    sequences: int,
    machine: HardwareProfile,
    rates: SoftwareRates,
    prompt: int,
    new: int,
    *,
    efficiency: float,
    on_drive: bool = False,
) -> Times:
    """ZeRO-Inference: one batch, row by row; all weights pass for every token, the next layer's during this one's.

    ``efficiency`` is the share of the link that its transfers reach. Cache and activations stay on the device.
    """
    rate = efficiency * machine.bytes_per_s("host->device")
    if on_drive:
        rate = min(rate, machine.bytes_per_s("nvme->host"))
    loading_s = model.layer_nbytes / rate
    prefill_s, decode_s = _resident_s(model, sequences, machine, rates, prompt, new)
    return Times(model.layers * max(loading_s, prefill_s), (new - 1) * model.layers * max(loading_s, decode_s))


def accelerate(
    model: OPT,
    sequences: int,
    machine: HardwareProfile,
    rates: SoftwareRates,
    prompt: int,
    new: int,
    *,
    weights_on: str = "host",
) -> Times:
    """Layer by layer, and nothing overlaps: fetched out of pageable memory (``device``: not at all), computed, dropped.

    With ``drive`` each layer is read from there first. The profile has to have a host.
    """
    loading_s = 0.0
    if weights_on != "device":
        assert machine.host is not None, "pageable memory is copied by a core of the host"
        link, host = machine.links["host->device"], machine.host
        copying = (host.copy_bytes_per_s, host.staging_nbytes)
        loading_s = staged_s(link, int(model.layer_nbytes), *copying, is_read=True)
    if weights_on == "drive":
        loading_s += model.layer_nbytes / machine.bytes_per_s("nvme->host")
    prefill_s, decode_s = _resident_s(model, sequences, machine, rates, prompt, new)
    head_s = model.head_nbytes / _memory(machine)
    return Times(
        model.layers * (loading_s + prefill_s) + head_s, (new - 1) * (model.layers * (loading_s + decode_s) + head_s)
    )


def tokens_per_s(times: Times, sequences: int, new: int) -> float:
    """Generated tokens over prefill and decoding, as the paper counts them."""
    return sequences * new / (times.prefill_s + times.decode_s)


def _resident_s(
    model: OPT, sequences: int, machine: HardwareProfile, rates: SoftwareRates, prompt: int, new: int
) -> tuple[float, float]:
    """Seconds of a layer that is there, with its cache: of a prefill, and of a decode step."""
    at = Placement(sequences)
    decode_s = _decode_layer_s(model, at, machine, rates, prompt + new / 2)
    return _prefill_layer_s(model, at, machine, rates, prompt), decode_s


def _moved_weights(model: OPT, at: Placement) -> float:
    return model.layer_nbytes * (at.weights_host + at.weights_drive) * _share(at.compressed_weights)


def _decompression_s(model: OPT, at: Placement, machine: HardwareProfile, rates: SoftwareRates, tokens: float) -> float:
    """Every batch of a block unpacks the weights for itself, and its own cache."""
    weights = at.num_batches * model.layer_nbytes * at.compressed_weights
    cache = model.cache_nbytes(tokens) * at.compressed_cache
    return rates.decompression_passes * (weights + cache) / _memory(machine)


def _reading_s(model: OPT, at: Placement, machine: HardwareProfile) -> float:
    """Every batch of a block reads the weights from the device's memory."""
    return at.num_batches * model.layer_nbytes / _memory(machine)


def _memory(machine: HardwareProfile) -> float:
    return machine.memory_bytes_per_s * machine.memory_share


def _share(is_compressed: bool) -> float:
    return COMPRESSED if is_compressed else 1.0


def _of(part: float, other: float) -> float:
    return part / (part + other) if part else 0.0
