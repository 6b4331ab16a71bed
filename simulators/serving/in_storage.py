"""InstAttention: attention inside drives, each with the cache of its share of the heads; weights stay on the GPU."""

from dataclasses import dataclass, field

from simulators.flash.drive import DriveParameters
from simulators.flash.engines import pipeline_s
from simulators.flash.makespan import Makespan, exact_s
from simulators.flash.timing import AttendTime, FlashTiming, Phase
from simulators.serving.base import Host, ServingTime, Workload
from simulators.serving.gpu import prefill_s, weights_s
from simulators.serving.kv_pages import KVPages, flushed_per_step, pages_of
from simulators.serving.link_path import LinkPath, PeerToPeer
from simulators.serving.moved import Moved
from simulators.serving.selection import Selection, WholeGroups
from simulators.serving.software import SoftwareCosts

_CONTEXTS = 4
_VECTOR_NBYTES = 2


@dataclass(frozen=True, slots=True)
class InStorage:
    """Dense attention, or sparse where there is a ``selection``, on ``drives`` drives of a kind.

    A ``selection`` of tokens is SparF's, with a second copy of the keys by channels; one of whole groups needs none.
    """

    drive: DriveParameters
    software: SoftwareCosts
    drives: int = 1
    selection: Selection | WholeGroups | None = None
    makespan: Makespan = field(default=exact_s, repr=False)  # a function's repr differs in every process
    path: LinkPath = field(default_factory=PeerToPeer)

    def time(self, workload: Workload, host: Host) -> ServingTime:
        """See ServingSystem. Layers are alike, so that one of them is timed."""
        shape = workload.shape
        # Without a channel copy, of which only full spans are read, time is linear in the length.
        contexts = workload.contexts(_CONTEXTS if self._is_twice else 1)
        attended = [self.attend(workload, tokens) for tokens in contexts]
        attend_s = sum(time.seconds for time in attended) / len(contexts)
        weigh_s = sum(time.stations_s["weigh"] for time in attended) / len(contexts)
        submit_s = self.software.submit_s * workload.batch * self.drives
        sent, returned = self._vectors_nbytes(workload)
        hops_s = self.path.hop_s(host, sent) + self.path.hop_s(host, returned)
        attends = workload.new_tokens * shape.layers
        kv_s = attends * (submit_s + hops_s + attend_s - weigh_s)
        host_nbytes = attends * self.path.host_nbytes(sent + returned)
        gpu_s = weights_s(workload, host, workload.batch)
        other_s = workload.new_tokens * (gpu_s + shape.layers * (self.software.layer_overhead_s + weigh_s))
        first_s = self.prefill_s(workload, host)
        return ServingTime(workload, first_s, kv_s + other_s, kv_s, host_nbytes, drive_s=attends * attend_s)

    def attend(self, workload: Workload, tokens: int) -> AttendTime:
        """One layer of a decode step with ``tokens`` in the cache: q, k, v go to a drive, the output comes back.

        All drives do the same at the same time. Pages that fill up are programmed in the background of the reads.
        """
        pages = self._pages(workload)
        sent, returned = (nbytes / self.drives for nbytes in self._vectors_nbytes(workload))
        return FlashTiming(self.drive, self.makespan).attend_s(
            self._phases(pages, tokens),
            jobs=pages.jobs,
            nbytes_in=sent,
            nbytes_out=returned,
            flushed=pages.written(flushed_per_step(pages, is_twice=self._is_twice)),
        )

    def prefill_s(self, workload: Workload, host: Host) -> float:
        """Layer by layer: the keys and values of one go to the drives while the GPU computes the next."""
        layers = workload.shape.layers
        compute_s = prefill_s(workload, host, workload.batch, workload.prompt_tokens) / layers
        return pipeline_s({"gpu": layers * compute_s, "drive": layers * self.layer_write_s(workload, host)}, layers)

    def layer_write_s(self, workload: Workload, host: Host) -> float:
        """A layer of the prompts: over the link once, programmed with the second copy of the keys; both at a time."""
        pages = self._pages(workload)
        nbytes = workload.kv_nbytes(workload.prompt_tokens) / workload.shape.layers
        per_job = pages.num_pages(workload.prompt_tokens, channel_copy=self._is_twice)
        programs_s = FlashTiming(self.drive, self.makespan).write_s(pages.written(per_job))
        return max(programs_s, self.drive.link_s(nbytes / self.drives), self.path.hop_s(host, nbytes))

    def _vectors_nbytes(self, workload: Workload) -> tuple[float, float]:
        """Of a layer and step, over all drives: query, key and value; output."""
        shape, of_head = workload.shape, workload.batch * workload.shape.head_dim * _VECTOR_NBYTES
        return (shape.heads + 2 * shape.kv_heads) * of_head, shape.heads * of_head

    def moved(self, time: ServingTime, host: Host) -> Moved:
        """Of all drives together: over their links only queries, outputs and new tokens, and the prompts once."""
        workload, pages = time.workload, self._pages(time.workload)
        layers, steps = workload.shape.layers, workload.new_tokens
        contexts = workload.contexts(_CONTEXTS)
        touched = [phase.pages.num_pages for tokens in contexts for phase in self._phases(pages, tokens)]
        page_nbytes = self.drive.page_nbytes * layers * self.drives
        sent, returned = (steps * layers * nbytes for nbytes in self._vectors_nbytes(workload))
        sent += workload.kv_nbytes(workload.prompt_tokens)
        return Moved(
            prefill_s(workload, host, workload.batch, workload.prompt_tokens)
            + steps * weights_s(workload, host, workload.batch),
            {"device->csd": float(sent), "csd->device": float(returned)},
            host_nbytes=self.path.host_nbytes(sent + returned),
            flash_read_nbytes=float(page_nbytes * steps * sum(touched) / len(contexts)),
            flash_written_nbytes=float(
                page_nbytes * pages.jobs * pages.num_pages(workload.tokens, channel_copy=self._is_twice)
            ),
            drives=self.drives,
            drive_busy_s=time.drive_s + layers * self.layer_write_s(workload, host),
            engine_busy_s=time.drive_s,
        )

    @property
    def _is_twice(self) -> bool:
        return not isinstance(self.selection, WholeGroups | None)

    def _phases(self, pages: KVPages, tokens: int) -> list[Phase]:
        match self.selection:
            case None:
                return pages.dense(tokens)
            case WholeGroups():
                return pages.whole_groups(tokens, self.selection)
            case _:
                return pages.sparse(tokens, self.selection)

    def _pages(self, workload: Workload) -> KVPages:
        return pages_of(self.drive, workload.shape, workload.batch, self.drives, workload.tokens)
