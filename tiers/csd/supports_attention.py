"""What the host's attention needs of a drive, or of several that act as one."""

from typing import Protocol

from tiers.csd.commands import (
    Attend,
    Attended,
    Config,
    Configured,
    ReadKV,
    Reclaim,
    Reclaimed,
    SequenceState,
    TokensRead,
    WriteKV,
    Written,
)
from tiers.csd.pending import Pending


class SupportsAttention(Protocol):
    """Keeps keys and values, and attends to them where they are; see ``ComputationalDrive``."""

    name: str

    @property
    def modelled_s(self) -> float:
        """Seconds that the commands so far would have taken on the drive that is emulated."""
        ...

    def configure(self, config: Config) -> Configured: ...

    def write_kv(self, command: WriteKV) -> Pending[Written]: ...

    def attend(self, command: Attend) -> Pending[Attended]: ...

    def read_kv(self, command: ReadKV) -> Pending[TokensRead]: ...

    def reclaim(self, command: Reclaim) -> Reclaimed: ...

    def inspect(self, task: int, sequence: int) -> SequenceState: ...

    def close(self) -> None: ...
