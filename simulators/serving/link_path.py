"""How bytes get from a GPU to a drive and back: peer to peer, or by way of the host's memory."""

from dataclasses import dataclass
from typing import Protocol

from simulators.serving.base import Host


class LinkPath(Protocol):
    """What lies between the GPU and the drive's own link. What a step waits for takes both, one after the other.

    A large transfer moves in pieces and takes as long as the slower.
    """

    def hop_s(self, host: Host, nbytes: float) -> float:
        """Seconds to get ``nbytes`` of all drives past it."""
        ...

    def host_nbytes(self, nbytes: float) -> float:
        """What the host's memory takes and gives for ``nbytes``."""
        ...


@dataclass(frozen=True, slots=True)
class PeerToPeer:
    """Nothing: a drive reads and writes the GPU's memory (InstAttention, HPCA 2025)."""

    def hop_s(self, host: Host, nbytes: float) -> float:
        """See LinkPath."""
        return 0.0

    def host_nbytes(self, nbytes: float) -> float:
        """See LinkPath."""
        return 0.0


@dataclass(frozen=True, slots=True)
class ViaHost:
    """Pinned memory of the host, which the GPU's copy engine reaches: one hop more, each byte written and read once."""

    def hop_s(self, host: Host, nbytes: float) -> float:
        """See LinkPath."""
        return host.profile.links["device->host"].latency_s + nbytes / host.profile.bytes_per_s("device->host")

    def host_nbytes(self, nbytes: float) -> float:
        """See LinkPath."""
        return 2.0 * nbytes


PATHS: dict[str, LinkPath] = {"p2p": PeerToPeer(), "host": ViaHost()}
"""By the names that settings use."""
