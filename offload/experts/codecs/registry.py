"""Codecs by the precision in an expert's key, and what ``--experts`` may say."""

from types import MappingProxyType
from typing import Final

from offload.experts.codecs.affine import AffineCodec
from offload.experts.codecs.base import Codec
from offload.experts.codecs.int8 import Int8Codec
from offload.experts.codecs.sparse import SparseCodec
from tiers.errors import ModelError

CODECS: Final = MappingProxyType(
    {
        codec.name: codec
        for codec in (
            Int8Codec(),
            SparseCodec(AffineCodec(4)),
            AffineCodec(4),
            SparseCodec(AffineCodec(3)),
            AffineCodec(2),
        )
    }
)
"""By falling size."""


def codec_of(precision: str) -> Codec:
    """Raises ModelError for a precision that this version does not know."""
    codec = CODECS.get(precision)
    if codec is None:
        raise ModelError(f"experts of precision '{precision}' are unknown; this version reads {', '.join(CODECS)}")
    return codec
