"""Where tokens lie, worked out on the device: the same as the host would say."""

import torch

from offload.graphs.places import Places, place_table, room_for
from offload.kv.table import BlockTable
from tests.offload.kv.kit import BLOCK, open_store, tokens


def test_rooms_are_few() -> None:
    assert [room_for(count) for count in (1, 1024, 1025, 4097, 131072)] == [1024, 1024, 4096, 16384, 262144]


def test_each_row_of_each_layer_has_places_of_its_own() -> None:
    with open_store(16, layers=2) as store:
        tables = [[BlockTable(store, layer, home=4 * (2 * layer + row)) for row in range(2)] for layer in range(2)]
        for rows in tables:
            for table in rows:
                table.append(*tokens(0, BLOCK + 1))
        numbers = place_table(tables, (0, 3), BLOCK + 1)
        assert numbers is not None
        places = Places.of(torch.from_numpy(numbers), 1024)
        firsts = [0, 16, 32, 48]
        assert places.newest.flatten().tolist() == [first + BLOCK for first in firsts]
        assert places.pieces.shape == (2, 2, 4, 2)
        seen = [[range(a, b) for a, b in row] for layer in places.pieces.tolist() for row in layer]
        assert [list(row[0]) for row in seen] == [
            list(range(first + begin, first + BLOCK + 1)) for first, begin in zip(firsts, (0, 3, 0, 3), strict=True)
        ]
        assert not any(len(piece) for row in seen for piece in row[1:])
        for rows in tables:
            for table in rows:
                table.clear()


def test_pieces_cover_a_row_once() -> None:
    places = Places.of(torch.tensor([[100], [30], [900]]), 4096)
    covered = [token for a, b in places.pieces[0, 0].tolist() for token in range(a, b)]
    assert covered == list(range(130, 1000))


def test_there_are_none_where_tokens_are_no_neighbours() -> None:
    with open_store(16) as store:
        table, other = BlockTable(store, 0, home=0), BlockTable(store, 0, home=1)
        for one in (table, other, table):
            one.append(*tokens(0, BLOCK))
        assert place_table([[table, other]], (0, 0), BLOCK) is None
        assert place_table([[other]], (0,), BLOCK) is not None
        table.clear()
        other.clear()
