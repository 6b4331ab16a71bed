"""Numbers that go between the host and the device."""

import numpy as np
import pytest
import torch

from offload.copies import on_device, on_host
from tests.tiers.devices import on_every_device


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_there_and_back(device: str, dtype: torch.dtype) -> None:
    given = torch.arange(12).view(3, 4).to(dtype)
    there = on_device(np.arange(12).reshape(3, 4), torch.device(device)).to(dtype)
    assert there.device.type == device
    found, other = on_host(there, there[:0])
    assert torch.equal(found, given)
    assert (found.device.type, tuple(other.shape)) == ("cpu", (0, 4))


def test_what_is_there_is_not_copied() -> None:
    tensor = torch.ones(3)
    assert on_host(tensor)[0] is tensor


@on_every_device
def test_a_copy_outlives_the_array_that_it_is_of(device: str) -> None:
    """The memory that it comes out of is used again only when the copy has ended."""
    copies = [on_device(np.full(1000, number), torch.device(device)) for number in range(200)]
    assert [int(copy.sum()) for copy in copies] == [1000 * number for number in range(200)]
