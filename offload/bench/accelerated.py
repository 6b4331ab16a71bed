"""Hugging Face's own way of running a model that does not fit."""

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from offload.device import is_gpu, torch_device


def accelerated(
    model: Path | str, device: str, device_memory: int, folder: str, *, host_memory: int = 0
) -> PreTrainedModel:
    """A model as accelerate runs it with so many bytes of a device and, beside a GPU, of the host.

    The rest is in files of ``folder``.
    """
    memory: dict[int | str, int] = {"cpu": device_memory}
    if is_gpu(device):
        memory = {torch_device(device).index: device_memory, "cpu": host_memory}
    found: Any = AutoModelForCausalLM.from_pretrained(
        model, dtype="auto", device_map="auto", max_memory=memory, offload_folder=folder
    )
    return found  # type: ignore[no-any-return]
