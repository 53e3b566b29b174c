"""Position embeddings that no one learned: sines and cosines, in the layouts that checkpoints leave out of their files.

Tables are computed in float64. Each is a tensor (rows, width) for `embedding`; a position's row is the position, or where
padding has a row of its own (fairseq) the position and an offset, which `moved_positions` and `counted_positions` give it.
"""

import numpy as np

from milbuild.weights import Tensor


def fairseq_sinusoids(rows: int, width: int, padding: int | None = None) -> Tensor:
    """All sines, then all cosines, frequencies from 1 to 1/10,000; an odd width ends with zeros. The row of `padding` is 0.

    Needed by M2M100, XGLM and Speech2Text (offset 2, padding 1: modeling_m2m_100.py, M2M100SinusoidalPositionalEmbedding) and,
    without padding, by Whisper (modeling_whisper.py, sinusoids), where files without the table exist.
    """
    half = width // 2
    frequencies = 10_000.0 ** (-np.arange(half) / (half - 1))
    sines, cosines = _waves(rows, frequencies)
    table = np.concatenate([sines, cosines, np.zeros((rows, width % 2))], axis=1)
    if padding is not None:
        table[padding] = 0
    return _tensor(f"fairseq's sinusoids, padding {padding}", table)


def marian_sinusoids(rows: int, width: int) -> Tensor:
    """All sines, then all cosines, frequencies 10,000^(-2 i / width).

    Needed by Marian, Pegasus and RoFormer (modeling_marian.py, MarianSinusoidalPositionalEmbedding) and by CTRL.
    """
    sines, cosines = _waves(rows, _paper(width))
    return _tensor("Marian's sinusoids", np.concatenate([sines, cosines[:, : width // 2]], axis=1))


def interleaved_sinusoids(rows: int, width: int) -> Tensor:
    """Sine and cosine of each frequency beside each other, frequencies 10,000^(-2 i / width), as in arXiv:1706.03762.

    Needed by XLM, Flaubert and DistilBERT (modeling_xlm.py, create_sinusoidal_embeddings).
    """
    table = np.stack(_waves(rows, _paper(width)), axis=2).reshape(rows, -1)
    return _tensor("interleaved sinusoids", table[:, :width])


def _paper(width: int) -> np.ndarray:
    return 10_000.0 ** (-np.arange(0, width, 2) / width)


def _waves(rows: int, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angles = np.outer(np.arange(rows), frequencies)
    return np.sin(angles), np.cos(angles)


def _tensor(name: str, table: np.ndarray) -> Tensor:
    return Tensor(name, f"{name} {table.shape}", np.ascontiguousarray(table))
