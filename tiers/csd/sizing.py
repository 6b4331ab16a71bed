"""How much flash and memory a task takes on a drive: to choose a drive, or to know beforehand that one is too small."""

from dataclasses import replace

import numpy as np

from tiers.csd.channel_order import ChannelLearner
from tiers.csd.commands import Config
from tiers.csd.geometry import FlashGeometry
from tiers.csd.pages import KVShape
from tiers.csd.task import Task


def flash_nbytes(config: Config, geometry: FlashGeometry, *, sequences: int, tokens: int) -> int:
    """Of so many sequences of so many tokens each: whole pages of all layers, with the rows of blocks they begin."""
    shape = config.shape(geometry)
    groups = tokens // shape.tokens_per_group
    spans = tokens // shape.tokens_per_span if config.key_copies == 2 else 0
    pages = (2 * groups + spans * shape.pages_per_span) * config.kv_heads * config.num_layers * sequences
    row = geometry.num_dies * geometry.pages_per_block
    return -(-pages // row) * row * geometry.page_nbytes


def memory_nbytes(config: Config, geometry: FlashGeometry, *, sequences: int, tokens: int) -> int:
    """Of the drive's memory: mapping tables, and what ``layer_nbytes`` says of every layer of each sequence.

    With less than that, what the engine keeps is programmed and read as pages, in every attention.
    """
    task = Task.of(config, geometry)
    groups = tokens // task.shape.tokens_per_group
    of_sequence = sum(layer_nbytes(task, layer, groups) for layer in range(config.num_layers))
    return geometry.table_nbytes + sequences * of_sequence


def layer_nbytes(task: Task, layer: int, groups: int) -> int:
    """Of one layer of one sequence: buffers, queries to learn from, and what the engine keeps of so many groups."""
    nbytes = buffer_nbytes(task.shape) + groups * summary_nbytes(task.shape, task.engine_of(layer).summary.vectors)
    return nbytes + (ChannelLearner.nbytes(task.shape) if task.learns_order(layer) else 0)


def summary_nbytes(shape: KVShape, vectors: int) -> int:
    """What is kept of one group, of all its heads."""
    return vectors * shape.kv_heads * shape.head_dim * np.dtype(shape.dtype).itemsize


def buffer_nbytes(shape: KVShape) -> int:
    """A group of keys and values of every head, and the sum of the values, of one layer of one sequence."""
    token_nbytes = shape.kv_heads * shape.head_dim * np.dtype(shape.dtype).itemsize
    return 2 * shape.tokens_per_group * token_nbytes + 4 * shape.kv_heads * shape.head_dim


def drive_for(config: Config, geometry: FlashGeometry, *, sequences: int, tokens: int) -> FlashGeometry:
    """``geometry`` with as many erase blocks on each die as this task takes, and memory where that is too small."""
    row_nbytes = geometry.num_dies * geometry.pages_per_block * geometry.page_nbytes
    blocks = max(1, flash_nbytes(config, geometry, sequences=sequences, tokens=tokens) // row_nbytes)
    # Tables grow with the flash, and half of the memory is kept for what is good to have.
    sized = replace(geometry, blocks_per_die=blocks, dram_nbytes=1 << 62)
    wanted = 2 * memory_nbytes(config, sized, sequences=sequences, tokens=tokens)
    return replace(sized, dram_nbytes=max(geometry.dram_nbytes, wanted))
