"""Whether a store's experts in fewer bits can be computed on a device, asked before anything is loaded."""

from collections.abc import Iterable
from pathlib import Path

import torch

from offload.device import is_gpu, require_device, torch_device
from offload.experts.codecs.tiles import TILES
from offload.experts.packed.products import flaw
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError
from tiers.weight_tier import STORED, WeightGroup


def check_packed(
    path: Path, groups: Iterable[WeightGroup], device: str, dtype: torch.dtype, *, uses_low_copies: bool
) -> None:
    """Raises InvalidOptionError where ``device`` is not a processor and has no right kernel for some of ``groups``.

    Copies in a lower precision than that of the experts count only where they are used.
    """
    used = (group for group in groups if uses_low_copies or group.kind != "low_expert")
    forms = {form for group in used for form in _forms(group)}
    if not forms or not is_gpu(device):
        return
    require_device(device)
    for precision, tiles in sorted(forms):
        why = f"packed as '{tiles}', for a processor without AVX2" if tiles and tiles not in TILES else None
        why = why or flaw(torch_device(device), precision, tiles, dtype)
        if why is not None:
            raise InvalidOptionError(
                f"--device {device}: {path} keeps experts in {precision}: {why}; "
                "use --device cpu, or the model as stored"
            )


def _forms(group: WeightGroup) -> Iterable[tuple[str, str]]:
    """Precision, and the layout of the codes where there are several; see ``encoded_name``."""
    if isinstance(group.key, ExpertKey) and group.key.precision != STORED:
        parts = [spec.name.rpartition(".")[2] for spec in group.tensors]
        names = {part.rpartition("_")[0] for part in parts if part.endswith(("_all", "_low"))}
        for tiles in names or {""}:
            yield group.key.precision, tiles
