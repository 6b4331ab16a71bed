"""Why no step of a model can be done by a graph."""

from offload.architecture import Architecture
from offload.kv.cache import layer_windows
from offload.runtime import Runtime


def obstacle(architecture: Architecture, runtime: Runtime) -> str:
    """In a few words; "" where nothing is in the way."""
    if runtime.experts is not None:
        return "the experts of a step are found while it goes on"
    if runtime.streamer is not None:
        return "not all weights stay on the device"
    if runtime.drives is not None or not runtime.kv.is_still:
        return "not all of the KV cache stays on the device"
    if architecture.attention.latent:
        return "its attention meets latents"
    if any(window is not None for window in layer_windows(architecture.config)):
        return "it has sliding windows"
    return ""
