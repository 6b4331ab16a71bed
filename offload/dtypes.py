"""Number formats by the names that checkpoints use."""

import torch

from tiers.errors import ModelError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype name; raises ModelError for one that we cannot compute with."""
    try:
        return _DTYPES[name]
    except KeyError:
        raise ModelError(f"tensors of type {name} are not supported; convert the model to BF16, F16 or F32") from None
