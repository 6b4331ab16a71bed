"""The manager against the naive implementation, a dict from keys to bytes: any history, any policy, any fault."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from tests.tiers.devices import on_cuda
from tests.tiers.house import House
from tests.tiers.manager_machine import LEVELS, NUM_BACKED, ManagerMachine
from tiers.errors import WorldError
from tiers.eviction.registry import POLICIES
from tiers.fault_injection import Fault, FaultPlan


class FaultyManagerMachine(ManagerMachine):
    """The same on a drive that errs, lies, hangs and disappears. Calls may fail; bytes that are returned are right."""

    allowed = (WorldError,)
    plan = FaultPlan()

    def make_house(self, directory: Path, policy: str) -> House:
        return House(directory, LEVELS, policy=policy, num_backed=NUM_BACKED, plan=self.plan, stall_timeout_s=0.02)

    @initialize(
        rate=st.sampled_from([0.05, 0.3, 0.6]),
        kinds=st.lists(st.sampled_from(Fault), min_size=1, unique=True),
        seed=st.integers(0, 2**16),
        gone_from=st.none() | st.integers(0, 20),
    )
    def choose_faults(self, rate: float, kinds: list[Fault], seed: int, gone_from: int | None) -> None:
        plan = FaultPlan(rate=rate, kinds=kinds, seed=seed, gone_from=gone_from, delay_s=0.001)
        self.house.faulty.faults.plan = plan

    @rule()
    def the_drive_answers_again(self) -> None:
        self.house.faulty.release()

    def wait_for_stragglers(self) -> None:
        self.house.faulty.release()
        # The engine itself gives a drive no longer than its time limit, which here is a moment, and a busy machine
        # takes longer than that.
        for link in self.house.engine._links.values():
            link.close(60)
        self.house.engine.close()
        self.manager._placement.reclaim()


def run(machine: type[ManagerMachine], directory: Path, policies: Sequence[str], max_examples: int) -> None:
    houses = itertools.count()

    def make() -> ManagerMachine:
        number = next(houses)
        return machine(directory / str(number), policies[number % len(policies)])

    run_state_machine_as_test(
        make,  # type: ignore[arg-type]  # whatever makes a machine will do
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_agrees_with_a_dict(tmp_path: Path, policy: str) -> None:
    run(ManagerMachine, tmp_path, [policy], max_examples=12)


class DeviceManagerMachine(ManagerMachine):
    """The same where the first level is a device, which the others reach by copies and by way of a ring."""

    device = "cpu"

    def make_house(self, directory: Path, policy: str) -> House:
        return House(directory, LEVELS, policy=policy, num_backed=NUM_BACKED, device=self.device)


class CudaManagerMachine(DeviceManagerMachine):
    device = "cuda"


@pytest.mark.parametrize("machine", [DeviceManagerMachine, pytest.param(CudaManagerMachine, marks=on_cuda)])
def test_agrees_with_a_dict_on_a_device(tmp_path: Path, machine: type[ManagerMachine]) -> None:
    run(machine, tmp_path, ["lru", "arc", "cost_aware"], max_examples=15)


def test_never_returns_wrong_bytes_from_a_bad_drive(tmp_path: Path) -> None:
    run(FaultyManagerMachine, tmp_path, ["lru"], max_examples=60)
