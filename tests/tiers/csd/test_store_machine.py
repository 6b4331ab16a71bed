"""A drive and a dict go through the same life; after every step the drive holds what the dict holds."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.tiers.csd.kit import BY_CHANNELS, CONFIG, SMALL, Tokens, attend, attention, open_store, tokens, write
from tiers.csd.commands import Inspect, Reclaim
from tiers.errors import DriveFullError

SEQUENCES = st.integers(0, 3)
MADE: dict[int, Tokens] = {sequence: tokens(400, seed=sequence) for sequence in range(4)}


class DriveMachine(RuleBasedStateMachine):
    """Sequences of one task, on a drive that is soon full."""

    config = CONFIG

    @initialize()
    def start(self) -> None:
        self.directory = TemporaryDirectory()
        self.path = Path(self.directory.name) / "image"
        self.store = open_store(self.path)
        self.store.configure(self.config)
        self.held: dict[int, int] = {}

    @rule(sequence=SEQUENCES, n=st.sampled_from((1, 5, 16, 33, 150)))
    def write(self, sequence: int, n: int) -> None:
        first = self.held.get(sequence, 0)
        last = min(399, first + n)  # one is left to decode
        if first > last:
            return
        try:
            answer = self.store.write_kv(write(MADE[sequence], first, last, sequence=sequence))
        except DriveFullError:
            return
        assert answer.num_tokens == last
        self.held[sequence] = last

    @rule(sequence=SEQUENCES)
    def decode(self, sequence: int) -> None:
        token, made = self.held.get(sequence, 0), MADE[sequence]
        if token == 400:
            return
        try:
            answer = self.store.attend(attend(made, token, sequence=sequence))
        except DriveFullError:
            return
        self.held[sequence] = token + 1
        output, logsumexp = attention(made, token + 1)
        assert np.abs(answer.output[0] - output).max() < 1e-5
        assert np.abs(answer.logsumexp[0] - logsumexp).max() < 1e-5

    @rule(sequences=st.sets(SEQUENCES, min_size=1))
    def reclaim(self, sequences: set[int]) -> None:
        self.store.reclaim(Reclaim(CONFIG.task, tuple(sequences)))
        for sequence in sequences:
            self.held.pop(sequence, None)

    @rule()
    def work(self) -> None:
        self.store.work()

    @precondition(lambda self: self.held)
    @rule(cleanly=st.booleans())
    def restart(self, cleanly: bool) -> None:
        """Full groups survive when the drive is closed, and those that were flushed in any case."""
        promised = {sequence: self.store.inspect(Inspect(1, sequence)).num_flushed[0] for sequence in self.held}
        if cleanly:
            self.store.close()
        else:
            self.store._image.close()
        self.store = open_store(self.path)
        for sequence, n in list(self.held.items()):
            found = self.store.inspect(Inspect(1, sequence)).num_tokens[0]
            assert found == n // 16 * 16 if cleanly else promised[sequence] <= found <= n
            self.held[sequence] = found

    @invariant()
    def agrees(self) -> None:
        self.store.check()
        for sequence in MADE:
            assert self.store.inspect(Inspect(1, sequence)).num_tokens[0] == self.held.get(sequence, 0)
        health = self.store.health()
        assert health.free_pages + health.valid_pages + health.dead_pages == SMALL.num_pages
        assert health.lost_pages == 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store._image.close()
            self.directory.cleanup()


class ChannelsMachine(DriveMachine):
    """The same with a channel index whose order is learnt."""

    config = BY_CHANNELS


TestDriveMachine = DriveMachine.TestCase
TestDriveMachine.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestChannelsMachine = ChannelsMachine.TestCase
TestChannelsMachine.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
