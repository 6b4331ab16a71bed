"""CUDA graphs, by torch."""

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor

from offload.graphs.questions import NoQuestions


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class CudaGraph:
    """See Graph."""

    output: Tensor
    nbytes: int
    _graph: torch.cuda.CUDAGraph

    def replay(self) -> None:
        with torch.cuda.device(self.output.device):
            self._graph.replay()


class CudaGraphs:
    """See GraphBackend. All graphs take their memory from one pool: they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # torch hands out 32 streams of each priority in turn: of the usual one it might be a stream that copies blocks.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._graphs: WeakSet[CudaGraph] = WeakSet()

    @property
    def nbytes(self) -> int:
        """See GraphBackend. A graph counts for what torch reserved while it was captured."""
        return sum(graph.nbytes for graph in self._graphs)

    def capture(self, step: Callable[[], Tensor]) -> CudaGraph:
        """See GraphBackend. Other threads may use the device meanwhile."""
        with torch.cuda.device(self._device):
            step()  # compiles kernels, which prove themselves, and opens libraries
            with NoQuestions(self._device):
                step()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            output, recorded = self._capture(step)
            torch.cuda.empty_cache()
            graph = CudaGraph(output, max(0, torch.cuda.memory_reserved() - before), recorded)
            self._graphs.add(graph)
            return graph

    def _capture(self, step: Callable[[], Tensor]) -> tuple[Tensor, torch.cuda.CUDAGraph]:
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        # A capture that fails does not leave its stream by itself.
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            output = step()
        return output, graph
