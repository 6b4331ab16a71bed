import pytest
import torch

from offload.kv.layout import KVLayout


def test_sizes() -> None:
    layout = KVLayout(block_tokens=16, num_kv_heads=3, key_dim=8, value_dim=4, dtype="BF16")
    assert layout.values_per_token == 36
    assert layout.block_nbytes == 16 * 36 * 2


@pytest.mark.parametrize(("tokens", "aligned"), [(64, True), (63, False)])
def test_alignment(tokens: int, aligned: bool) -> None:
    assert KVLayout(tokens, 2, 16, 16, "F32").is_aligned is aligned


def test_blocks_in_neighbouring_slots_are_one_tensor() -> None:
    """Token after token, keys of all heads before values of all heads; what is left over at the end is not touched."""
    layout = KVLayout(block_tokens=2, num_kv_heads=2, key_dim=3, value_dim=1, dtype="F32")
    buffer = bytearray((3 * 2 * 8 + 5) * 4)
    numbers = torch.frombuffer(buffer, dtype=torch.float32)
    numbers.copy_(torch.arange(len(numbers)))
    rows = layout.rows(memoryview(buffer), num_slots=3)
    keys, values = layout.split(rows)
    assert rows.shape == (6, 8)
    assert keys.shape == (6, 2, 3)
    assert values.shape == (6, 2, 1)
    for token in range(6):
        assert keys[token].flatten().tolist() == [8 * token + i for i in range(6)]
        assert values[token].flatten().tolist() == [8 * token + 6, 8 * token + 7]
    keys[4, 1, 2] = -1
    assert numbers[4 * 8 + 5] == -1
