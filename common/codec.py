"""How an update is packed for the wire: full precision, half precision, or 8 bits with a scale per block.

A codec is a row of `CODECS`. What a lossy codec rounds away comes back as a residual; the sender adds it
to its next update (error feedback; Seide et al., "1-bit stochastic gradient descent", Interspeech 2014;
Karimireddy et al., "Error feedback fixes SignSGD", ICML 2019), so that over the rounds nothing is lost.
All numbers travel little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import FedGliaError, RefusedUpdate

Flat = NDArray[np.float32]

BLOCK = 1024
"""Values that share one scale in the `int8` codec; the scales add 0.4 % to the payload."""

_LEVELS = 127
_CHUNK = 1 << 16
_LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class Packed:
    """One packed vector: `data` holds the values, `scales` one float32 per block (empty where unused)."""

    codec: str
    data: bytes | memoryview
    scales: Flat

    @property
    def nbytes(self) -> int:
        """Bytes of the payload, scales included."""
        return len(self.data) + self.scales.nbytes

    def tobytes(self) -> bytes:
        """The payload as one buffer: the values, then the scales."""
        if not self.scales.size:
            return bytes(self.data)  # no copy where they are bytes already
        return b"".join((self.data, self.scales.astype("<f4").tobytes()))


@dataclass(frozen=True)
class Codec:
    """A way to pack a flat float32 vector; `largest` is the largest magnitude that it can hold."""

    name: str
    value_bytes: int
    block: int | None
    largest: float
    pack: Callable[[Flat], tuple[bytes, Flat]]
    unpack: Callable[[bytes | memoryview, Flat], Flat]

    def blocks(self, size: int) -> int:
        """Number of scales for `size` values."""
        return 0 if self.block is None else -(-size // self.block)

    def nbytes(self, size: int) -> int:
        """Exact payload bytes of `size` values."""
        return size * self.value_bytes + self.blocks(size) * 4

    def encode(self, flat: Flat, residual: Flat | None = None) -> tuple[Packed, Flat | None]:
        """Packs `flat` plus `residual`; also returns what rounding lost, or None if nothing was.

        Args:
            flat: float32 vector (n,), n >= 0.
            residual: what the previous `encode` of this sender returned, or None.

        Raises:
            FedGliaError: `flat` is not a float32 vector, the residual has another length, or a value is
                NaN, infinite or too large for this codec.
        """
        total = _summed(flat, residual)
        self._check_range(total)
        data, scales = self.pack(total)
        packed = Packed(self.name, data, scales)
        if self.value_bytes == 4:
            return packed, None
        return packed, total - self.unpack(data, scales)

    def split(self, buffer: bytes, size: int) -> Packed:
        """The parts of a payload that `Packed.tobytes` made; no copy of the values.

        Raises:
            RefusedUpdate: code `size`; the buffer is not exactly as long as `size` values need.
        """
        if len(buffer) != self.nbytes(size):
            raise RefusedUpdate(
                f"{len(buffer)} bytes where {self.nbytes(size)} carry {size} values as {self.name}",
                code="size",
            )
        border = size * self.value_bytes
        scales = np.frombuffer(buffer, dtype="<f4", offset=border)
        return Packed(self.name, memoryview(buffer)[:border], scales)

    def decode(self, packed: Packed, size: int) -> Flat:
        """The float32 vector (size,) in `packed`; may be a read-only view of its bytes.

        Raises:
            RefusedUpdate: code `codec` for a payload of another codec, `size` for a wrong length,
                `not-finite` for NaN or Inf.
        """
        if packed.codec != self.name:
            raise RefusedUpdate(f"packed as {packed.codec}, read as {self.name}", code="codec")
        if len(packed.data) != size * self.value_bytes or packed.scales.size != self.blocks(size):
            raise RefusedUpdate(f"the payload does not hold {size} values as {self.name}", code="size")
        self._check_scales(packed.scales)
        flat = self.unpack(packed.data, packed.scales)
        if not np.isfinite(flat).all():
            raise RefusedUpdate("the update holds NaN or Inf", code="not-finite")
        return flat

    def _check_range(self, flat: Flat) -> None:
        # NaN fails every comparison, so "not (... <= largest)" also catches it.
        if flat.size and not float(np.abs(flat).max()) <= self.largest:
            raise FedGliaError(
                f"the update holds NaN, Inf or a value beyond {self.largest:g}, the largest that codec "
                f"{self.name} carries; training diverged: lower the learning rate or choose codec fp32",
                code="not-finite",
            )

    def _check_scales(self, scales: Flat) -> None:
        if scales.size and not (scales.min() >= 0 and scales.max() <= self.largest / _LEVELS):
            raise RefusedUpdate("a scale of the update is negative, NaN or Inf", code="not-finite")


def codec(name: str) -> Codec:
    """The row of `CODECS` called `name`.

    Raises:
        RefusedUpdate: code `codec`; there is no such row.
    """
    try:
        return CODECS[name]
    except KeyError:
        raise RefusedUpdate(f"unknown codec; known are {', '.join(CODECS)}", code="codec") from None


def _summed(flat: Flat, residual: Flat | None) -> Flat:
    if flat.ndim != 1 or flat.dtype != np.float32:
        raise FedGliaError(f"an update is a float32 vector, not {flat.dtype} of shape {flat.shape}")
    if residual is None:
        return flat
    if residual.shape != flat.shape:
        raise FedGliaError(
            f"the residual of the last round holds {residual.size} values, this update {flat.size}; "
            "the plan trains other parameters than before: delete the residual"
        )
    return flat + residual


def _no_scales() -> Flat:
    return np.empty(0, dtype=np.float32)


def _pack_fp32(flat: Flat) -> tuple[bytes, Flat]:
    return flat.astype("<f4", copy=False).tobytes(), _no_scales()


def _unpack_fp32(data: bytes | memoryview, scales: Flat) -> Flat:
    return np.frombuffer(data, dtype="<f4")


def _pack_fp16(flat: Flat) -> tuple[bytes, Flat]:
    return flat.astype("<f2").tobytes(), _no_scales()


def _unpack_fp16(data: bytes | memoryview, scales: Flat) -> Flat:
    return np.frombuffer(data, dtype="<f2").astype(np.float32)


def _pack_int8(flat: Flat) -> tuple[bytes, Flat]:
    blocks = _in_blocks(flat)
    scales = (np.abs(blocks).max(axis=1) / _LEVELS).astype(np.float32)
    # A block of zeros, or so small that its scale underflows, is sent as zeros; the residual keeps it.
    divisors = np.where(scales > 0, scales, np.float32(np.inf))
    levels = np.clip(np.rint(blocks / divisors[:, None]), -_LEVELS, _LEVELS).astype(np.int8)
    return levels.reshape(-1)[: flat.size].tobytes(), scales


def _unpack_int8(data: bytes | memoryview, scales: Flat) -> Flat:
    levels = np.frombuffer(data, dtype=np.int8).astype(np.float32)
    blocks = _in_blocks(levels) * scales[:, None]
    return blocks.reshape(-1)[: levels.size]


def _in_blocks(flat: Flat) -> Flat:
    rows = -(-flat.size // BLOCK)
    padded = np.zeros(rows * BLOCK, dtype=np.float32)
    padded[: flat.size] = flat
    return padded.reshape(rows, BLOCK)


_ROWS = (
    Codec("fp32", 4, None, float(np.finfo(np.float32).max), _pack_fp32, _unpack_fp32),
    Codec("fp16", 2, None, _LARGEST_FP16, _pack_fp16, _unpack_fp16),
    # Half of float32's range: level * scale may round up and must not overflow.
    Codec("int8", 1, BLOCK, float(np.finfo(np.float32).max) / 2, _pack_int8, _unpack_int8),
)
CODECS: dict[str, Codec] = {row.name: row for row in _ROWS}


def norm_of(flat: Flat) -> float:
    """Euclidean norm, summed in float64; NaN or Inf if and only if a value is."""
    total = 0.0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.float64)
        # Not BLAS: its threads change the last bits, and crawl where processes outnumber cores.
        total += float(np.square(part, out=part).sum())
    return math.sqrt(total) if total >= 0 else math.nan
