from prefetch.selection import AllBlocks


def test_exact_attention_sees_every_block() -> None:
    selector = AllBlocks()
    assert list(selector.select(layer=3, num_blocks=4, query_summary=None)) == [0, 1, 2, 3]
    assert list(selector.select(layer=0, num_blocks=0, query_summary=object())) == []
