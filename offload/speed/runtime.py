"""All that a hardware profile says of the runtime itself, measured. Takes about a minute."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from offload.speed.bookkeeping import kv_block_s, prediction_s
from offload.speed.contexts import ContextSizes, measure_contexts
from offload.speed.models import Sizes, measure_models
from offload.speed.products import POOL_NBYTES, attention_speed, product_tables, prompt_attention_flops_per_s, slice_s
from offload.speed.transfers import measure_transfers
from simulators.profile import HardwareProfile
from simulators.runtime_profile import RuntimeProfile


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly: ``seconds`` for a number, memory that matrices are taken out of, and models to time."""

    seconds: float = 0.05
    pool_nbytes: int = POOL_NBYTES
    models: Sizes = field(default_factory=Sizes)
    contexts: ContextSizes = field(default_factory=ContextSizes)


def measure_runtime(profile: HardwareProfile, directory: Path | None, effort: Effort) -> RuntimeProfile:
    """For ``profile.runtime``, on a processor. Without a ``directory`` what has to do with drives counts nothing.

    Raises what NVMeTier raises.
    """
    seconds = effort.seconds
    products, vector_products = product_tables(seconds, effort.pool_nbytes)
    rate, part_s = attention_speed(seconds, effort.pool_nbytes)
    found = RuntimeProfile(
        products=products,
        vector_products=vector_products,
        cores=torch.get_num_threads(),
        attention_bytes_per_s=rate,
        attention_flops_per_s=prompt_attention_flops_per_s(seconds),
        kv_part_s=part_s,
        slice_s=slice_s(seconds),
        kv_block_s=kv_block_s(seconds),
        prediction_s=prediction_s(seconds),
    )
    if directory is not None:
        costs = measure_transfers(directory, seconds)
        found = replace(
            found,
            transfer_s=costs.transfer_s,
            request_s=costs.request_s,
            checksum_bytes_per_s=costs.checksum_bytes_per_s,
            missed_expert_s=costs.missed_expert_s,
        )
    found = measure_models(found, directory, effort.models)
    return measure_contexts(replace(profile, runtime=found), directory, effort.contexts)
