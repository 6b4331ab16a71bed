"""How long idle threads spin is settled before torch is imported, by what else the machine does."""

import os
import sys

import pytest

from offload import threads

SETTINGS = ("GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS", "KMP_BLOCKTIME")


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("share", "spins"), [(0.0, "20000"), (100.0, "2000")])
def test_where_others_are_busy_threads_sleep_sooner(monkeypatch: pytest.MonkeyPatch, share: float, spins: str) -> None:
    monkeypatch.setattr("psutil.cpu_percent", lambda interval: share)
    assert threads.wait_politely()
    assert os.environ["GOMP_SPINCOUNT"] == spins


def test_a_setting_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert threads.wait_politely()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def test_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", os)
    assert not threads.wait_politely()
    assert "GOMP_SPINCOUNT" not in os.environ
