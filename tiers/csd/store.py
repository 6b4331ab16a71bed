"""The inside of an emulated drive: tasks, their sequences, and what is done with them, one command at a time."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from tiers.csd import commands
from tiers.csd.address import ADDRESS
from tiers.csd.engines.registry import ENGINES
from tiers.csd.ftl import FlashTranslation
from tiers.csd.image import VERSION, FlashImage
from tiers.csd.layer import StoredLayer, make_room
from tiers.csd.layer_pages import LayerPages
from tiers.csd.memory import DeviceMemory
from tiers.csd.page_log import PageLog
from tiers.csd.page_table import LayerKey
from tiers.csd.pages import KVShape
from tiers.csd.read_back import read_tokens
from tiers.csd.recovery import recover
from tiers.csd.sizing import layer_nbytes
from tiers.csd.task import Task
from tiers.csd.trace import Trace
from tiers.csd.wire import config_from
from tiers.errors import InvalidOptionError, TierError, TokensLostError

_BLOCKS_ERASED_AT_A_TIME = 64


class DriveStore:
    """Executes commands on an image. A command that raises has changed nothing that a reader could see.

    There is one exception: an Attend that meets a damaged page (CorruptBlockError) has appended its tokens.

    What is acknowledged: a token counts as held from the completion of its command, and as *flushed*, which means that
    it survives this process, below ``Written.num_flushed``. See ``recovery`` for what comes back.
    """

    def __init__(self, image: FlashImage, name: str = "csd", *, traces: bool = False) -> None:
        """Open what is on the image, or start with an empty one. Raises TransferError, DriveFullError.

        ``traces``: remember what the flash does, until ``trace`` is called.
        """
        self.name = name
        self._image = image
        self._flash = FlashTranslation(image, name)
        self._flash.trace = Trace() if traces else None
        geometry = image.geometry
        self._memory = DeviceMemory(geometry.dram_nbytes, tables_nbytes=geometry.table_nbytes, name=name)
        self._tasks: dict[int, Task] = {}
        self._layers: dict[LayerKey, StoredLayer] = {}
        self._waiting: dict[LayerKey, None] = {}  # layers with something to be programmed, the oldest first
        self._recovered = recover(self._flash, self._read_task)
        for key in self._recovered.layers:
            self._note_work(self._make_layer(key, self._task(key.task)))

    def configure(self, command: commands.Config) -> commands.Configured:
        """Start a task. Raises InvalidOptionError, also while the task has sequences; TransferError."""
        if any(key.task == command.task for key in self._layers):
            raise InvalidOptionError(f"task {command.task} has sequences; reclaim them before it is configured again")
        task = Task.of(command, self._image.geometry)
        self._flash.add_task(command.task, json.dumps(asdict(command)).encode())
        self._tasks[command.task] = task
        return commands.Configured(task.shape.tokens_per_group, task.shape.channels_per_page)

    def execute(self, command: commands.Command) -> commands.Completion:
        """Carry out any command; raises as the method of its name."""
        return _VERBS[type(command)](self, command)

    def shape_of(self, task: int) -> tuple[commands.Config, KVShape]:
        """Configuration and layout of a task; raises InvalidOptionError."""
        found = self._task(task)
        return found.config, found.shape

    def write_kv(self, command: commands.WriteKV) -> commands.Written:
        """Append tokens. Raises InvalidOptionError, TokensLostError, DriveFullError, TransferError."""
        layer = self._open_layers(command.task, command.layer, [command.sequence], [command.start])[0]
        make_room(self._memory, self._layers.values(), layer.memory_for(command.keys.shape[1]))
        layer.append(command.keys, command.values)
        self._note_work(layer)
        return commands.Written(layer.num_tokens, layer.num_flushed)

    def attend(self, command: commands.Attend) -> commands.Attended:
        """Append and attend; raises as ``write_kv``, and CorruptBlockError."""
        task = self._task(command.task)
        sequences = command.sequences.tolist()
        layers = self._open_layers(command.task, command.layer, sequences, command.starts.tolist())
        if command.keys is not None and command.values is not None:
            # Whatever can fail comes first, so that all sequences of the batch get their token or none.
            wanted = sum(layer.memory_for(1) for layer in layers)
            make_room(self._memory, self._layers.values(), wanted)
            self._memory.require(wanted)
            for layer in layers:
                layer.flush()
            for index, layer in enumerate(layers):
                layer.append(command.keys[index][:, None], command.values[index][:, None])
                self._note_work(layer)
        engine = task.dense if command.in_full else task.engine_of(command.layer)
        output = np.empty(command.query.shape, task.config.link_dtype)
        logsumexp = np.empty(command.query.shape[:2], np.float32)
        for index, layer in enumerate(layers):
            log = PageLog()
            result = engine.attend(command.query[index].astype(np.float32), LayerPages(layer, log))
            output[index], logsumexp[index] = result.output, result.logsumexp
            if self._flash.trace is not None:
                self._flash.trace_reads(layer.key, log)
            if not command.in_full:
                layer.note_query(command.query[index].astype(np.float32))
                self._note_work(layer)
        return commands.Attended(output, logsumexp)

    def read_kv(self, command: commands.ReadKV) -> commands.TokensRead:
        """Raises TokensLostError, InvalidOptionError, CorruptBlockError."""
        key, end = LayerKey(command.task, command.sequence, command.layer), command.start + command.num_tokens
        layer = self._layers.get(key)
        held = layer.num_tokens if layer else 0
        if layer is None or end > held:
            raise TokensLostError(
                self.name, sequence=key.sequence, layer=key.layer, wanted_tokens=end, held_tokens=held
            )
        log = PageLog()
        found = read_tokens(LayerPages(layer, log), command.start, command.num_tokens)
        if self._flash.trace is not None:
            self._flash.trace_reads(key, log)
        return found

    def trace(self) -> Trace:
        """What the flash did since the last call."""
        assert self._flash.trace is not None, "made without traces"
        found, self._flash.trace = self._flash.trace, Trace()
        return found

    def reclaim(self, command: commands.Reclaim) -> commands.Reclaimed:
        """Forget sequences; those that are not there are passed over. Raises InvalidOptionError, TransferError."""
        self._task(command.task)
        wanted = set(command.sequences)
        keys = [key for key in self._layers if key.task == command.task and (not wanted or key.sequence in wanted)]
        valid = self._flash.blocks.num_valid
        self._flash.finish(command.task, sorted({key.sequence for key in keys}))
        for key in keys:
            self._layers.pop(key).forget()
            self._waiting.pop(key, None)
        return commands.Reclaimed(valid - self._flash.blocks.num_valid)

    def identify(self) -> commands.DriveIdentity:
        return commands.DriveIdentity(VERSION, self._image.geometry, tuple(sorted(ENGINES)), self._image.was_made)

    def health(self) -> commands.DriveHealth:
        blocks, counts = self._flash.blocks, self._flash.counts
        return commands.DriveHealth(
            free_pages=blocks.num_free,
            valid_pages=blocks.num_valid,
            dead_pages=blocks.num_dead,
            pages_read=counts.pages_read,
            pages_programmed=counts.pages_programmed,
            blocks_erased=counts.blocks_erased,
            wear_least=int(blocks.wear.min()),
            wear_mean=float(blocks.wear.mean()),
            wear_most=int(blocks.wear.max()),
            memory_used_nbytes=self._memory.used_nbytes,
            memory_nbytes=self._memory.capacity_nbytes,
            sequences=len({(key.task, key.sequence) for key in self._layers}),
            lost_pages=self._recovered.num_lost_pages,
            summary_pages=sum(table.num_pages * table.heads for table in self._flash.tables.summaries.values()),
        )

    def inspect(self, command: commands.Inspect) -> commands.SequenceState:
        """Zeros for a sequence that the drive does not know. Raises InvalidOptionError."""
        num_layers = self._task(command.task).config.num_layers
        keys = [LayerKey(command.task, command.sequence, layer) for layer in range(num_layers)]
        found = [self._layers.get(key) for key in keys]
        return commands.SequenceState(
            tuple(layer.num_tokens if layer else 0 for layer in found),
            tuple(layer.num_flushed if layer else 0 for layer in found),
        )

    def work(self) -> bool:
        """Do a little of what can wait: flush a group, or a span of channels, else erase some blocks. False if nothing.

        A failure is left to the command that needs what failed: it will meet it again and has somebody to tell.
        """
        if self._waiting:
            key = next(iter(self._waiting))
            del self._waiting[key]
            layer = self._layers[key]
            layer.flush()
            layer.index()
            self._note_work(layer)
            return True
        return self._flash.erase(_BLOCKS_ERASED_AT_A_TIME).size > 0

    @property
    def has_work(self) -> bool:
        """Whether ``work`` would do something."""
        return bool(self._waiting) or self._flash.blocks.num_erasable > 0

    def check(self) -> None:
        """Raise AssertionError if the books do not add up."""
        self._flash.check()
        assert set(self._layers) == set(self._flash.tables.tokens), "layers and tables differ"
        for key, layer in self._layers.items():
            pages = self._flash.tables.tokens[key][0].num_pages
            assert pages * layer.shape.tokens_per_group == layer.num_flushed, (
                f"{key}: {pages} pages, {layer.num_flushed}"
            )

    def close(self) -> None:
        """Flush the groups that are full, if that works; what does not fill one is lost."""
        for key in self._waiting:
            with suppress(TierError):
                self._layers[key].flush()
        self._image.close()

    def _open_layers(self, task: int, layer: int, sequences: Sequence[int], starts: Sequence[int]) -> list[StoredLayer]:
        """Layers that hold what the command takes them to hold; new ones where it starts at token 0."""
        found = self._task(task)
        if not 0 <= layer < found.config.num_layers:
            raise InvalidOptionError(f"task {task} has layers 0 to {found.config.num_layers - 1}, not {layer}")
        if len(set(sequences)) < len(sequences):
            raise InvalidOptionError(f"task {task}: a sequence is named twice in one command")
        for sequence, start in zip(sequences, starts, strict=True):
            ADDRESS.check(sequence=sequence)
            known = self._layers.get(LayerKey(task, sequence, layer))
            held = known.num_tokens if known else 0
            if start > held:
                raise TokensLostError(self.name, sequence=sequence, layer=layer, wanted_tokens=start, held_tokens=held)
            if start < held:
                raise InvalidOptionError(
                    f"sequence {sequence}, layer {layer}: the drive holds {held:,} tokens, the command goes on from "
                    f"{start:,}; flash is not overwritten: reclaim the sequence first"
                )
        return [self._make_layer(LayerKey(task, sequence, layer), found) for sequence in sequences]

    def _make_layer(self, key: LayerKey, task: Task) -> StoredLayer:
        if key not in self._layers:
            # With all groups that it has in flash already, where the drive comes back.
            groups = self._flash.tables.tokens[key][0].num_pages if key in self._flash.tables.tokens else 0
            make_room(self._memory, self._layers.values(), layer_nbytes(task, key.layer, groups))
            self._layers[key] = StoredLayer(
                key,
                task.shape,
                key_copies=task.config.key_copies,
                flash=self._flash,
                memory=self._memory,
                summary=task.engine_of(key.layer).summary,
                learns_order=task.learns_order(key.layer),
            )
        return self._layers[key]

    def _note_work(self, layer: StoredLayer) -> None:
        if layer.has_full_group or layer.is_behind:
            self._waiting[layer.key] = None

    def _task(self, number: int) -> Task:
        if number not in self._tasks:
            raise InvalidOptionError(f"task {number} is not configured; send its configuration first")
        return self._tasks[number]

    def _read_task(self, description: bytes) -> tuple[int, KVShape]:
        config = config_from(json.loads(description))
        self._tasks[config.task] = Task.of(config, self._image.geometry)
        return config.task, self._tasks[config.task].shape


# Not in the store itself: one that refers to its own methods keeps its image mapped until garbage is collected.
_VERBS: dict[type[commands.Command], Callable[[DriveStore, Any], commands.Completion]] = {
    commands.Config: DriveStore.configure,
    commands.WriteKV: DriveStore.write_kv,
    commands.Attend: DriveStore.attend,
    commands.ReadKV: DriveStore.read_kv,
    commands.Reclaim: DriveStore.reclaim,
    commands.Inspect: DriveStore.inspect,
    commands.Identify: lambda store, _: store.identify(),
    commands.Health: lambda store, _: store.health(),
}
