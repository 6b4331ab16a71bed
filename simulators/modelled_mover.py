"""The simulator's TransferEngine: the same seam, modelled time, no bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from simulators.modelled_link import LinkGroup, LinkUse, ModelledLink, ModelledTransfer, OnWork, VirtualClock
from simulators.virtual_mover import VirtualMover
from tiers.chunks import Move
from tiers.link import Priority
from tiers.tier import Tier

COMPUTE = "compute"
"""The name under which computing is told of to whoever watches what moves."""

SecondsToMove = Callable[[int, int], float]
"""From the number of blocks and their bytes in all to seconds on an idle link."""


class EmptyTier(Tier):
    """A tier that holds no bytes: a name, a number of slots and their size."""

    def __init__(self, name: str, num_slots: int, block_nbytes: int) -> None:
        self.name = name
        self.num_slots = num_slots
        self.block_nbytes = block_nbytes

    def read(self, slot: int, buffer: memoryview) -> None:
        """There is nothing to read."""
        raise NotImplementedError("a modelled tier holds no bytes")

    def write(self, slot: int, buffer: memoryview) -> None:
        """There is nothing to write to."""
        raise NotImplementedError("a modelled tier holds no bytes")

    def close(self) -> None:
        """There is nothing to give back."""


def _no_time(_blocks: int, _nbytes: int) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """From one tier to another: how long it takes there, and the wire that it may share with other routes."""

    seconds: SecondsToMove
    wire: str
    loads: Mapping[str, float] = field(default_factory=dict)
    """Of what it shares with routes over other wires, by name, how many bytes pass there for each byte moved."""
    cpu_s: SecondsToMove = _no_time
    """Processor time on the host."""


class ModelledMover(VirtualMover[ModelledTransfer]):
    """See the module. ``routes`` by the names of links, such as ``"nvme->device"``; KeyError for a missing one.

    ``capacities`` are the bytes a second of whatever a route loads, ``decoding`` those that generating tokens takes of
    it; ``on_work`` is told what moves when.
    """

    def __init__(
        self,
        clock: VirtualClock,
        routes: Mapping[str, Route],
        capacities: Mapping[str, float] | None = None,
        on_work: OnWork | None = None,
        decoding: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(clock)
        self.links: dict[str, LinkUse] = {}
        self.routes = routes
        group = LinkGroup(clock, capacities, on_work)
        self._wires = _wires(group, routes, on_work)
        self._decoding = decoding
        self._processor = group.link() if decoding else None

    def seconds(self, source: str, target: str, num_blocks: int, nbytes: int) -> float:
        """How long a transfer would take if nothing else moved."""
        return self.routes[f"{source}->{target}"].seconds(num_blocks, nbytes)

    def submit(self, source: Tier, target: Tier, moves: Sequence[Move], priority: Priority) -> ModelledTransfer:
        """Start a transfer at the present time."""
        name = f"{source.name}->{target.name}"
        route = self.routes[name]
        num_blocks = len(moves)
        nbytes = num_blocks * source.block_nbytes
        seconds = route.seconds(num_blocks, nbytes)
        use = self.links.get(name)
        if use is None:
            use = self.links[name] = LinkUse()
        use.nbytes += nbytes
        use.busy_s += seconds
        use.num_blocks += num_blocks
        wire = self._wires[route.wire]
        rates = {name: load * nbytes / seconds for name, load in route.loads.items()} if seconds else None
        transfer = ModelledTransfer(wire, nbytes, seconds, priority, name, rates)
        wire.submit(transfer)
        return transfer

    def rest(self) -> None:
        """Let time pass until nothing moves any more."""
        for wire in self._wires.values():
            wire.group.rest()

    def decode(self, seconds: float) -> float:
        """Let time pass in which tokens are generated, as long as it takes beside what moves; returns the seconds."""
        if self._processor is None or not seconds:
            self.clock.advance(seconds)
            return seconds
        start = self.clock.now_s
        work = ModelledTransfer(self._processor, 0, seconds, Priority.DEMAND, COMPUTE, self._decoding)
        self._processor.submit(work)
        self._processor.finish(work)
        return self.clock.now_s - start


def _wires(group: LinkGroup, routes: Mapping[str, Route], on_work: OnWork | None) -> dict[str, ModelledLink]:
    """Those that share anything are in ``group``; each other is in one of its own."""
    loaded = {route.wire for route in routes.values() if route.loads}
    names = dict.fromkeys(route.wire for route in routes.values())
    return {name: (group if name in loaded else LinkGroup(group.clock, None, on_work)).link() for name in names}
