"""Encoded blocks in files: a later process with the same model need not encode them again."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import zlib
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

log = logging.getLogger(__name__)

VERSION = "1"
SUFFIX = ".safetensors"
# A file that is being written ends so, or begins so where safetensors has a name of its own for
# it; one that is this old was left by a process that died.
UNFINISHED = ".tmp"
UNFINISHED_S = 600.0

KeysValues = tuple[Tensor, Tensor]


class DiskTier:
    """Keys and values of blocks by key, a safetensors file each. Safe from any thread.

    A file is named after its key, in a folder named after the model's ``fingerprint``; models may
    share ``folder``. It is written under another name and then renamed, so that whoever ends this
    process leaves whole files only, and its checksum is looked at when it is read. Above
    ``max_bytes``, of all models together, the files that were not used for longest are removed.
    """

    def __init__(self, folder: Path, fingerprint: bytes, max_bytes: int) -> None:
        """Raises ``OSError`` when the folder cannot be made or read."""
        self._home = folder / _digest(VERSION.encode() + fingerprint)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._home.mkdir(parents=True, exist_ok=True)
        self._sizes = _files(folder)
        self.num_bytes = sum(self._sizes.values())
        self._may_warn = True
        with self._lock:
            self._make_room(0)

    def __contains__(self, key: bytes) -> bool:
        return self._path(key) in self._sizes

    def put(self, key: bytes, num_tokens: int, tensors: KeysValues) -> bool:
        """Write the keys and values of a block, on the CPU and contiguous.

        False where it could not be written (the disk is full, say), which is logged once.
        """
        size = sum(tensor.nbytes for tensor in tensors)
        path = self._path(key)
        if size > self._max_bytes:
            return False
        unfinished = path.with_suffix(f".{os.getpid()}{UNFINISHED}")
        metadata = {
            "version": VERSION,
            "key": key.hex(),
            "num_tokens": str(num_tokens),
            "checksum": _checksum(tensors),
        }
        with self._lock:
            self._make_room(size)
        try:
            save_file(dict(zip(("keys", "values"), tensors, strict=True)), unfinished, metadata)
            size = unfinished.stat().st_size
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            if self._may_warn:
                self._may_warn = False
                log.warning("encoded blocks cannot be written to %s: %s", path.parent, error)
            return False
        with self._lock:
            self.num_bytes += size - self._sizes.pop(path, 0)
            self._sizes[path] = size
        return True

    def get(self, key: bytes, num_tokens: int, like: KeysValues) -> KeysValues | None:
        """The block's keys and values, of the shapes and dtypes of ``like``, on the CPU.

        None, with a warning, for a file that is damaged or something else; it is not looked at
        again until it is written anew. None if there is no file.
        """
        path = self._path(key)
        if path not in self._sizes:
            return None
        try:
            tensors = _read(path, key, num_tokens, like)
            os.utime(path)
        except FileNotFoundError:  # another process made room
            self._forget(path)
            return None
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("%s is left out, its block is encoded again: %s", path, error)
            self._forget(path)
            return None
        with self._lock:
            if path in self._sizes:
                self._sizes.move_to_end(path)
        return tensors

    def _path(self, key: bytes) -> Path:
        return self._home / (_digest(key) + SUFFIX)

    def _forget(self, path: Path) -> None:
        with self._lock:
            self.num_bytes -= self._sizes.pop(path, 0)

    def _make_room(self, size: int) -> None:
        """Remove the oldest files until ``size`` bytes fit."""
        while self._sizes and self.num_bytes + size > self._max_bytes:
            path, freed = self._sizes.popitem(last=False)
            self.num_bytes -= freed
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # in use by another program, on Windows
                log.debug("%s stays: %s", path, error)


def _files(folder: Path) -> OrderedDict[Path, int]:
    """Sizes of all blocks' files, the ones not used for longest first; clears what was left."""
    found: list[tuple[float, Path, int]] = []
    for path in folder.glob("*/*"):
        try:
            status = path.stat()
            if path.suffix == SUFFIX:
                found.append((status.st_mtime, path, status.st_size))
            elif _is_unfinished(path) and time.time() - status.st_mtime > UNFINISHED_S:
                path.unlink()
        except OSError:  # another process was faster
            continue
    return OrderedDict((path, size) for _, path, size in sorted(found))


def _is_unfinished(path: Path) -> bool:
    return path.suffix == UNFINISHED or path.name.startswith(UNFINISHED)


def _read(path: Path, key: bytes, num_tokens: int, like: KeysValues) -> KeysValues:
    """Raises ``ValueError`` for what is not the block's file."""
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        expected = {"version": VERSION, "key": key.hex(), "num_tokens": str(num_tokens)}
        for name, value in expected.items():
            if metadata.get(name) != value:
                raise ValueError(f"it has {name} {metadata.get(name)}, expected {value}")
        if sorted(file.keys()) != ["keys", "values"]:
            raise ValueError(f"it holds {', '.join(sorted(file.keys()))}")
        tensors = (file.get_tensor("keys"), file.get_tensor("values"))
    for tensor, wanted in zip(tensors, like, strict=True):
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise ValueError(
                f"it holds {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {wanted.dtype} {tuple(wanted.shape)}"
            )
    if metadata.get("checksum") != _checksum(tensors):
        raise ValueError("its checksum is wrong")
    return tensors


def _checksum(tensors: KeysValues) -> str:
    """CRC-32 of the bytes of both."""
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
