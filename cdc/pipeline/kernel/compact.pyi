from collections.abc import Sequence

import pyarrow as pa

SEED_BYTES: int

def last_images(
    batches: Sequence[tuple[pa.UInt8Array, Sequence[pa.Array]]], seed: bytes, hash_bits: int = 64
) -> (
    tuple[tuple[pa.Int32Array, ...], tuple[pa.Int32Array, ...], tuple[pa.Int32Array, ...], tuple[int, int, int]] | None
):
    """The last image of each key, of batches in stream order.

    Args:
        batches: operations (`Operation`) and key columns of each.
        seed: SEED_BYTES random ones, of the hash.
        hash_bits: how many of its bits count, from 1 on. With few of them, different keys meet: the result is the same,
            and tests see what tells such keys apart.
    Returns:
        Row numbers, ascending, of last images that put a row there, one array a batch; of those among them whose key's
        first image is an INSERT; of last images that take a row away; and how many INSERT, UPDATE_AFTER and DELETE
        there are. None for what only Python can fold or explain: a type that
        no key column has, types that differ between batches, an operation that is none, arrays that are not valid.
    """
