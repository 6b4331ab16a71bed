"""What the parts of a forward pass take on one machine, from its profile: no constant here is of one model."""

from dataclasses import dataclass, field

from simulators.generation_shape import AttentionShape, GroupShape, LayerShape, ModelShape
from simulators.modelled_queue import DRIVEN, QueueCosts
from simulators.profile import HardwareProfile
from simulators.runtime_profile import RuntimeProfile, Table, rate_of

_ITEM_NBYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class GenerationCosts:
    """Seconds of computing.

    A product of some tokens with a matrix takes as long as reading it for the first of them, plus the arithmetic for
    the others. All else comes out of ``RuntimeProfile``, which says what each number is.
    """

    profile: HardwareProfile
    dtype: str
    runtime: RuntimeProfile = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.profile.runtime or RuntimeProfile())

    @property
    def busy_share(self) -> float:
        """Of its speed, what computing keeps while the drive is read: where both share one memory not all of it."""
        profile = self.profile
        if profile.runtime is not None or not profile.unified_memory:
            return self.runtime.busy_share
        memory = profile.memory_bytes_per_s * profile.memory_share
        return memory / (memory + profile.bytes_per_s("nvme->device"))

    def products_s(self, matrices: tuple[int, ...], tokens: int, *, by_vector: bool = False) -> float:
        """``tokens`` tokens through matrices of so many bytes. ``by_vector``: those of experts and of the head."""
        tables = self.runtime.vector_products if by_vector else self.runtime.products
        table: Table = tables.get(self.dtype) or ((1, self.profile.memory_bytes_per_s),)
        read_s = sum(nbytes / rate_of(table, nbytes) for nbytes in matrices)
        flops = 2.0 * (tokens - 1) * sum(matrices) / _ITEM_NBYTES[self.dtype]
        return read_s + flops / self.profile.flops_per_s(self.dtype)

    def layer_s(self, layer: LayerShape, tokens: int) -> float:
        """All of a layer but attention over earlier tokens and routed experts."""
        extra_s = self.runtime.moe_layer_s if layer.experts else 0.0
        return (
            self.runtime.layer_s
            + extra_s
            + self.products_s(layer.group.products, tokens)
            + self._others_s(layer, tokens)
        )

    def _others_s(self, layer: LayerShape, tokens: int) -> float:
        """What is neither a product nor attention, of all tokens but the first: that of one is in ``layer_s``."""
        tables = self.runtime.activations
        table = tables.get(self.dtype) or next(iter(tables.values()), ())
        nbytes = (tokens - 1) * layer.activation_nbytes
        return nbytes / rate_of(table, nbytes) if table and nbytes else 0.0

    def head_s(self, model: ModelShape, piece: GroupShape, tokens: int) -> float:
        """One slice of the head, or all of it where that is one matrix."""
        alone_s = self.runtime.slice_s if len(model.head) > 1 else 0.0
        return alone_s + self.products_s(piece.products, tokens, by_vector=True)

    def attention_s(self, attention: AttentionShape, queries: int, context: int) -> float:
        """``queries`` tokens to ``context`` others: keys and values are read head by head, then it is arithmetic."""
        per_core = self.runtime.attention_bytes_per_s or self.profile.memory_bytes_per_s
        rounds = -(-attention.kv_heads // self.runtime.cores)
        read_s = rounds * context * attention.token_nbytes / attention.kv_heads / per_core
        flops_per_s = self.runtime.attention_flops_per_s or self.profile.flops_per_s(self.dtype)
        return read_s + (queries - 1) * context * attention.flops_per_pair / flops_per_s

    def kv_moved_s(self, link: str, nbytes: int) -> float:
        """Of the model, for one block that moves, whether or not somebody waits for it."""
        table = self.runtime.kv_moved.get(link)
        return nbytes / rate_of(table, nbytes) if table else 0.0

    def rows_s(self, model: ModelShape, tokens: int) -> float:
        """Rows of an embedding that is on the drive, 16 at a time; nothing goes on meanwhile."""
        if not model.embedding_row:
            return 0.0
        link = self.profile.links["nvme->device"]
        rate = self.profile.bytes_per_s("nvme->device", model.embedding_row)
        return -(-tokens // 16) * link.latency_s + tokens * model.embedding_row / rate

    def links(self, *, is_checked: bool) -> dict[str, QueueCosts]:
        """What each link of the profile costs; ``is_checked``: blocks from the drive have checksums."""
        return {name: self._link(name, is_checked=is_checked) for name in self.profile.links}

    def _link(self, name: str, *, is_checked: bool) -> QueueCosts:
        runtime, profile = self.runtime, self.profile
        rate = runtime.checksum_bytes_per_s
        if "nvme" not in name:
            # One thread copies.
            return QueueCosts(lambda _: profile.bytes_per_s(name), transfer_s=runtime.transfer_s, depth=1)
        stream = runtime.stream_bytes_per_s if name.startswith("nvme->") else 0.0
        # The stream was of requests of this size.
        scale = stream / profile.bytes_per_s(name, DRIVEN.chunk_nbytes) if stream else 1.0
        return QueueCosts(
            lambda nbytes: scale * profile.bytes_per_s(name, nbytes),
            latency_s=profile.links[name].latency_s,
            transfer_s=runtime.transfer_s,
            request_s=runtime.request_s,
            byte_s=1 / rate if rate and is_checked else 0.0,
        )
