"""The drive's own memory, as a budget."""

from tiers.errors import DriveFullError


class DeviceMemory:
    """Bytes that are spoken for, of ``capacity_nbytes``. Mapping tables are taken from the start."""

    def __init__(self, capacity_nbytes: int, *, tables_nbytes: int, name: str = "csd") -> None:
        self.capacity_nbytes = capacity_nbytes
        self.used_nbytes = tables_nbytes
        self.name = name

    def has(self, nbytes: int) -> bool:
        """Whether ``nbytes`` are there."""
        return self.used_nbytes + nbytes <= self.capacity_nbytes

    def require(self, nbytes: int) -> None:
        """Raise DriveFullError if ``nbytes`` are not there."""
        if not self.has(nbytes):
            raise DriveFullError(
                self.name,
                what="memory",
                wanted_nbytes=nbytes,
                available_nbytes=self.capacity_nbytes - self.used_nbytes,
                cure="run fewer sequences at a time or give the drive more memory (dram_nbytes)",
            )

    def reserve(self, nbytes: int) -> None:
        """Take ``nbytes``; raises DriveFullError."""
        self.require(nbytes)
        self.used_nbytes += nbytes

    def release(self, nbytes: int) -> None:
        """Give ``nbytes`` back."""
        self.used_nbytes -= nbytes
        assert self.used_nbytes >= 0, "more was given back than taken"

    def leaves_half(self, nbytes: int) -> bool:
        """Whether ``nbytes`` more leave half of the memory to others: for what is good to have but not needed."""
        return self.used_nbytes + nbytes <= self.capacity_nbytes // 2
