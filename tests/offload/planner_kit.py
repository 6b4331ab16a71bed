"""A small model, a short workload and machines for tests of the planner."""

from dataclasses import replace

from offload.plan import ModelSizes, Workload
from offload.plan_choice import device_nbytes, everything
from offload.plan_costs import Costs
from offload.plan_kv import kv_need
from simulators.profile import DEFAULT, HardwareProfile, LinkProfile

PAGE = 4096
MIB = 2**20

SMALL = ModelSizes(
    layer_nbytes=(MIB,) * 8,
    head_nbytes=(MIB, MIB // 2),
    embedding_nbytes=3 * MIB,
    rest_nbytes=PAGE,
    tied=False,
    kv_nbytes_per_token_layer=256,
    num_layers=8,
    kv_block_tokens=16,
    flops_per_token=5e6,
    workspace_nbytes_per_token=4000,
    workspace_nbytes_fixed=PAGE,
    embedding_row_nbytes=512,
)
SHORT = Workload(batch=1, prompt_tokens=40, new_tokens=20)


def _link(rate: float) -> LinkProfile:
    return LinkProfile(rate, rate / 2, 1e-4)


def make_profile(drive: float, host: float, memory: float = 1e10) -> HardwareProfile:
    """A drive and a host behind links of so many bytes per second."""
    links = {name: _link(drive if "nvme" in name else host) for name in DEFAULT.links}
    return replace(DEFAULT, memory_bytes_per_s=memory, links=links)


def full_nbytes(sizes: ModelSizes, workload: Workload) -> int:
    """Of the device where everything stays on it."""
    costs = Costs(sizes, workload, DEFAULT)
    need = kv_need(sizes, workload)
    return device_nbytes(costs, need, everything(costs, need))
