"""Counter-based random numbers: any sample's numbers without drawing those of the samples before it.

Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), vectorised over counters.
NumPy's own ``Philox`` is a sequential stream of another width; crops need random access by (epoch, sample).
"""

import numpy as np

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_KEY_STEP_0 = 0x9E3779B9
_KEY_STEP_1 = 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BLOCKS = 2**8  # of four numbers, that an occurrence of a sample may take: the counter has room for 2**24 occurrences
_WORDS_AT_A_TIME = 2**20


def philox_4x32(counter: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], seed: int) -> np.ndarray:
    """Four random 32-bit words for every counter.

    Args:
        counter: four arrays of one broadcastable shape, integers in [0, 2**32).
        seed: the 64-bit key.

    Returns:
        uint32 array [..., 4].
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c).astype(np.uint64) for c in counter))
    key_0, key_1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> _HALF) ^ c1 ^ np.uint64(key_0),
            product_1 & _LOW,
            (product_0 >> _HALF) ^ c3 ^ np.uint64(key_1),
            product_0 & _LOW,
        )
        key_0, key_1 = (key_0 + _KEY_STEP_0) & 0xFFFFFFFF, (key_1 + _KEY_STEP_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def uniform(
    seed: int, epoch: int, stream: int, samples: np.ndarray, count: int, occurrences: np.ndarray | None = None
) -> np.ndarray:
    """``count`` uniform numbers in the open interval (0, 1) for every sample: a function of the arguments alone.

    Args:
        stream: keeps the uses apart (flips, crop boxes, ...), a small integer.
        samples: int array [B], indices below 2**32.
        occurrences: int array [B], how often each has come before in the epoch; default 0. Each has numbers of its own.

    Returns:
        float64 array [B, count], multiples of 2**-33.

    Raises:
        ValueError: more than 1024 numbers, or 2**24 occurrences: they would be those of others.
    """
    blocks = np.arange((count + 3) // 4)[None, :]
    samples, place = np.asarray(samples)[:, None], blocks
    if occurrences is not None:
        if blocks.size > _BLOCKS or occurrences.max(initial=0) >= 2**32 // _BLOCKS:
            raise ValueError(f"{count} numbers of occurrence {occurrences.max()} of a sample: too many")
        place = _BLOCKS * np.asarray(occurrences)[:, None] + blocks
    words = philox_4x32((samples, np.full_like(blocks, epoch), place, np.full_like(blocks, stream)), seed)
    return (words.reshape(len(samples), 4 * blocks.size)[:, :count].astype(np.float64) + 0.5) * 2.0**-32


def in_a_row(count: int, seed: int, epoch: int, place: int = 0) -> np.ndarray:
    """``count`` random words, uint64: those of NumPy's own Philox (4x64) keyed by (seed, epoch), from a ``place`` of its stream on.

    Places are 2**192 counters apart. Raw words stay the same in all versions of NumPy, which its ``Generator`` does not promise.
    """
    key = np.array([seed & (2**64 - 1), epoch], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=np.array([0, 0, 0, place], dtype=np.uint64))
    words = np.empty(count, dtype=np.uint64)
    for part in np.array_split(words, -(-count // _WORDS_AT_A_TIME) or 1):  # drawing holds the interpreter lock
        part[:] = bits.random_raw(len(part))
    return words
