"""MODEL as the user wrote it -> a directory whose weights can be streamed."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from offload.zoo import default_cache, resolve_model


def runnable_model(
    name: str,
    *,
    notice: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The directory of a model; raises ModelError as ``resolve_model``.

    A GGUF file is packed on first use, since its compressed blocks cannot be computed with as they are: into the cache
    folder, where the next run finds it. ``notice`` is told so, because it is a second copy of the weights.
    """
    path = resolve_model(name)
    if path.suffix != ".gguf":
        return path
    from offload.checkpoint.source import fingerprint
    from offload.pack import pack
    from tiers.packed_store import is_packed_store

    digest = hashlib.sha256(fingerprint(path).encode()).hexdigest()[:12]
    out = default_cache() / "packed" / f"{path.stem}-{digest}"
    if not is_packed_store(out):
        if notice:
            notice(f"{path.name} is packed once, into {out}; remove that directory to have the space back")
        out.parent.mkdir(parents=True, exist_ok=True)
        pack(path, out, progress=progress)
    return out
