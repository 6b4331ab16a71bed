"""What went over the link to a drive."""

from dataclasses import dataclass


@dataclass(slots=True)
class LinkTraffic:
    """Bytes of the commands of one kind, counted where they are put into the queue and taken from it.

    ``header_nbytes``: submissions, completions and the descriptors of an Attend. ``sent_nbytes``: arrays to the drive
    (query, keys, values). ``received_nbytes``: replies (output and logsumexp).
    """

    commands: int = 0
    header_nbytes: int = 0
    sent_nbytes: int = 0
    received_nbytes: int = 0

    @property
    def nbytes(self) -> int:
        """All of them, both ways."""
        return self.header_nbytes + self.sent_nbytes + self.received_nbytes

    def add(self, other: "LinkTraffic") -> None:
        """Count what went over another link too."""
        self.commands += other.commands
        self.header_nbytes += other.header_nbytes
        self.sent_nbytes += other.sent_nbytes
        self.received_nbytes += other.received_nbytes
