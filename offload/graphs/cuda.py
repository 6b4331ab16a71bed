"""CUDA graphs, by torch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from offload.graphs.questions import NoQuestions


@dataclass(frozen=True, slots=True, eq=False)
class CudaGraph:
    """See Graph."""

    output: Tensor
    _graph: torch.cuda.CUDAGraph

    def replay(self) -> None:
        with torch.cuda.device(self.output.device):
            self._graph.replay()


class CudaGraphs:
    """See GraphBackend. All graphs take their memory from one pool: they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self.nbytes = 0

    def capture(self, step: Callable[[], Tensor]) -> CudaGraph:
        """See GraphBackend. Other threads may use the device meanwhile."""
        with torch.cuda.device(self._device):
            step()  # compiles kernels, which prove themselves, and opens libraries
            with NoQuestions(self._device):
                step()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            try:
                return self._capture(step)
            finally:
                torch.cuda.empty_cache()
                self.nbytes += max(0, torch.cuda.memory_reserved() - before)

    def _capture(self, step: Callable[[], Tensor]) -> CudaGraph:
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        # A capture that fails does not leave its stream by itself.
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            output = step()
        return CudaGraph(output, graph)
