"""Model files: safetensors with provenance in the header, written atomically, checked before they are used.

A file's metadata holds the provenance as JSON and a checksum over the provenance and every tensor's name,
type, shape and bytes. Equality of models is equality of tensors; two files of one model may differ.
Also here: the atomic write that every room uses, and the JSON-lines log that survives a kill.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from common.errors import CheckpointError
from common.files import canonical, write_atomic

MAX_FILE_BYTES = 4 << 30
MAX_HEADER_BYTES = 16 << 20

Storage = Literal["as-is", "float16"]

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Checkpoint:
    """A model file's content; `provenance` is what `save` was given, and its "fingerprint" and "storage"."""

    tensors: dict[str, Tensor]
    provenance: dict[str, Any]


def fingerprint(state: Mapping[str, Tensor], *, preset: str) -> str:
    """SHA-256 over the preset and each tensor's name and shape, in the order of names; types do not count."""
    table = [[name, list(state[name].shape)] for name in sorted(state)]
    return hashlib.sha256(canonical([preset, table])).hexdigest()


def save(
    path: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, object], *, storage: Storage = "as-is"
) -> None:
    """Write a model file atomically; missing parent folders are made.

    Args:
        path: the file, usually `*.safetensors`.
        tensors: name -> tensor, on any device.
        provenance: JSON values. With a "preset" in it, the "fingerprint" of `tensors` is added.
        storage: "float16" halves the file; `load` gives float32 again, rounded to 11 bits.

    Raises:
        CheckpointError: a float that float16 cannot hold, or provenance that is not JSON.
        RunError: the file cannot be written.
    """
    stored = {name: _stored(name, tensor, storage) for name, tensor in tensors.items()}
    facts = {**provenance, "storage": storage}
    if "preset" in provenance:
        facts.setdefault("fingerprint", fingerprint(tensors, preset=str(provenance["preset"])))
    try:
        text = canonical(facts).decode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name}: the provenance is not JSON ({error})") from error
    metadata = {"format": "pt", "provenance": text, "checksum": _checksum(text, stored)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_safetensors(stored, metadata=metadata))


def load(path: Path, *, fingerprint: str | None = None) -> Checkpoint:
    """Read a model file that `save` wrote, on the CPU.

    Args:
        path: the file.
        fingerprint: what `fingerprint` gives for the architecture at hand, to refuse any other. To be told
            the tensor that differs, load without it and call `check_architecture`.

    Raises:
        CheckpointError: missing, not a model file, truncated, altered, too large, or of another architecture.
    """
    _check_outside(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: the file may be replaced while the tensors are in use.
            stored = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path) from error
    provenance = _provenance(path, metadata, stored)
    if fingerprint is not None and provenance.get("fingerprint") != fingerprint:
        raise CheckpointError(
            f"{path.name}: holds architecture '{provenance.get('preset', 'unknown')}' "
            f"(fingerprint {str(provenance.get('fingerprint'))[:12]}), this run needs {fingerprint[:12]}; "
            "choose the model that belongs to the plan's preset, channels and classes"
        )
    if provenance.get("storage") == "float16":
        stored = {name: _widened(tensor) for name, tensor in stored.items()}
    return Checkpoint(stored, provenance)


def check_architecture(checkpoint: Checkpoint, state: Mapping[str, Tensor], *, preset: str) -> None:
    """Refuse a checkpoint that does not fit a model's `state`, naming the first tensor that differs.

    Raises:
        CheckpointError: with the presets, the tensor, and its expected and found shape.
    """
    found = checkpoint.tensors
    for name in sorted(state.keys() | found.keys()):
        expected_shape = tuple(state[name].shape) if name in state else None
        found_shape = tuple(found[name].shape) if name in found else None
        if expected_shape != found_shape:
            raise CheckpointError(
                f"the model file holds architecture '{checkpoint.provenance.get('preset', 'unknown')}', "
                f"needed is '{preset}'; first difference at '{name}': expected "
                f"{expected_shape or 'none'}, found {found_shape or 'none'}"
            )


def _stored(name: str, tensor: Tensor, storage: Storage) -> Tensor:
    own = tensor.detach().cpu().contiguous().clone()  # safetensors refuses tensors that share memory
    if storage != "float16" or not own.is_floating_point():
        return own
    half = own.to(torch.float16)
    if not bool((torch.isfinite(half) == torch.isfinite(own)).all()):
        raise CheckpointError(f"'{name}' holds a value beyond 65504, too large for float16; save it as it is")
    return half


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.dtype == torch.float16 else tensor


def _checksum(provenance: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(provenance.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_outside(path: Path) -> None:
    if not path.is_file():  # a pipe would block, a device never end
        raise CheckpointError(f"{path.name}: there is no such model file")
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(8)
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read ({error.strerror})") from error
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path.name}: {size} bytes; a model has at most {MAX_FILE_BYTES}")
    header = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= header <= min(MAX_HEADER_BYTES, size - 8):
        raise _damaged(path)


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path.name}: is truncated or not a safetensors file; fetch it again")


def _provenance(path: Path, metadata: Mapping[str, str], stored: Mapping[str, Tensor]) -> dict[str, Any]:
    text = metadata.get("provenance")
    if text is None or "checksum" not in metadata:
        raise CheckpointError(f"{path.name}: has no provenance, so it was not written by FedGlia")
    if _checksum(text, stored) != metadata["checksum"]:
        raise CheckpointError(f"{path.name}: was altered or damaged (its checksum differs); fetch it again")
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError):
        provenance = None
    if not isinstance(provenance, dict):
        raise CheckpointError(f"{path.name}: its provenance is not a JSON object")
    return provenance
