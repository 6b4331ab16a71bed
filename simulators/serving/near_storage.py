"""HILOS: attention beside each of many drives that share one link, and what it adds to that (ASPLOS 2026).

Its drives (SmartSSDs) have no more bandwidth inside than outside, so one alone gains nothing; many of them together
read faster than the link that they share. Newest tokens wait in the host, and a share of the cache is stored as the
input of its projections, which is smaller, crosses the link and becomes keys and values on the GPU while drives attend.
"""

from dataclasses import dataclass

from simulators.model_costs import ModelShape
from simulators.serving.base import Host, Workload
from simulators.serving.gpu import kv_read_s, weights_s
from tiers.errors import InvalidOptionError

_VECTOR_NBYTES = 2


@dataclass(frozen=True, slots=True)
class SharedLink:
    """``drives`` behind one link to the GPU, and the host's software between them."""

    drives: int = 16
    drive_bytes_per_s: float = 3.0e9
    """From the flash of one drive to its own accelerator, or out of it: the lanes are as many."""
    link_bytes_per_s: float = 32e9
    """PCIe 4.0 x16, as specified."""
    file_bytes_per_s: float = 10.7e9
    """FlexGen's way from files to the GPU. On: attention near storage is 3.39 times as fast with 16 drives."""
    small_write_s: float = 450e-6
    """A row of a page written alone: the page is read, changed and written. On: collecting them gains 1.32 times."""
    tokens_per_page: int = 16

    @property
    def flash_bytes_per_s(self) -> float:
        """Of all drives together."""
        return self.drives * self.drive_bytes_per_s


@dataclass(frozen=True, slots=True)
class FilesOverLink:
    """FlexGen: the whole cache comes to the GPU in every step. Rows of a step are written side by side, unseen."""

    machine: SharedLink

    def step_s(self, workload: Workload, host: Host, tokens: int) -> float:
        """A decode step of the batch with ``tokens`` in each cache."""
        machine = self.machine
        rate = min(machine.flash_bytes_per_s, machine.file_bytes_per_s)
        return weights_s(workload, host, workload.batch) + workload.kv_nbytes(tokens) / rate

    def link_nbytes(self, workload: Workload, tokens: int) -> int:
        """Of a step: the cache, and the new token's keys and values."""
        return workload.kv_nbytes(tokens) + workload.kv_nbytes(1)


@dataclass(frozen=True, slots=True)
class NearStorage:
    """Attention in the drives. ``write_back`` tokens are written together; ``x_share`` of the cache is stored as input.

    InvalidOptionError where that input is not smaller than keys and values.
    """

    machine: SharedLink
    write_back: int = 1
    x_share: float = 0.0

    def step_s(self, workload: Workload, host: Host, tokens: int) -> float:
        """A decode step of the batch with ``tokens`` in each cache; drives, link and GPU work side by side."""
        machine, nbytes = self.machine, workload.kv_nbytes(tokens)
        ratio = input_ratio(workload.shape) if self.x_share else 0.0
        flash_s = nbytes * (1 - self.x_share * (1 - ratio)) / machine.flash_bytes_per_s
        vectors_s = self.link_nbytes(workload, tokens) / machine.link_bytes_per_s
        gpu_s = nbytes * self.x_share * _recompute_s(workload.shape, host)
        return weights_s(workload, host, workload.batch) + max(flash_s, vectors_s, gpu_s) + self._writes_s(workload)

    def link_nbytes(self, workload: Workload, tokens: int) -> float:
        """Of a step: query, key, value and output of the new token, and the stored input of a share of the others."""
        shape = workload.shape
        vectors = workload.batch * shape.layers * 2 * (shape.heads + shape.kv_heads) * shape.head_dim * _VECTOR_NBYTES
        if not self.x_share:
            return vectors
        return vectors + self.x_share * input_ratio(shape) * workload.kv_nbytes(tokens)

    def _writes_s(self, workload: Workload) -> float:
        """What waits for writes: whole pages are programmed behind the reads, parts of one hold everybody up."""
        if self.write_back >= self.machine.tokens_per_page:
            return 0.0
        rows = 2 * workload.batch * workload.shape.layers * workload.shape.kv_heads / self.write_back
        return rows * self.machine.small_write_s / self.machine.drives


def input_ratio(shape: ModelShape) -> float:
    """Bytes of a projection's input over those of the keys and values that it becomes.

    InvalidOptionError where nothing is saved: heads that share keys and values have little to store.
    """
    ratio = shape.hidden / (2 * shape.kv_heads * shape.head_dim)
    if ratio >= 1:
        raise InvalidOptionError(
            f"x_share: {shape.kv_heads} KV heads of {shape.head_dim} store {2 * shape.kv_heads * shape.head_dim} "
            f"numbers of a token, its input has {shape.hidden}; it saves nothing, set it to 0"
        )
    return ratio


def best_x_share(machine: SharedLink, workload: Workload, host: Host | None) -> float:
    """The share at which the drives take as long as what brings the rest to the GPU, link or arithmetic.

    With a GPU of any speed (None) and heads that share nothing this is 2 link / (flash + link).
    """
    ratio, flash = input_ratio(workload.shape), machine.flash_bytes_per_s
    brought = ratio / machine.link_bytes_per_s
    if host is not None:
        brought = max(brought, _recompute_s(workload.shape, host))
    return min(1.0, 1 / (flash * brought + 1 - ratio))


def _recompute_s(shape: ModelShape, host: Host) -> float:
    """Seconds of the GPU for a byte of keys and values that it makes of their input and attends to."""
    profile = host.profile
    flops = 2.0 * shape.hidden / _VECTOR_NBYTES  # each of its numbers is a product with the whole input
    return flops / (profile.flops_per_s(shape.dtype) * profile.flops_share) + kv_read_s(host, 1.0)
