"""The tensors of a checkpoint by name, read from its safetensors files one at a time."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from game_agent.errors import ModelError
from game_agent.model.spec import read_json

_LFS = b"version https://git-lfs"
# Buffers that older versions of transformers saved, and that follow from config.json.
_COMPUTED = "rotary_emb.inv_freq"


class CheckpointTensors:
    """One ``model.safetensors``, or the shards that ``model.safetensors.index.json`` names.

    Raises :class:`ModelError` for a missing or damaged file.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self.files = self._find()
        self._home: dict[str, Path] = {}
        self._taken: set[str] = set()
        for path in self.files:
            with self._open(path) as file:
                self._home.update(dict.fromkeys(file.keys(), path))

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor in its file's dtype. On a CPU it is the file, mapped: to be read, not kept.

        Raises :class:`ModelError` when it is missing, of another shape, or no floating numbers.
        """
        path = self._home.get(name)
        if path is None:
            raise ModelError(
                f"tensor {name} is missing in {self._names()}; the checkpoint is incomplete, or "
                "config.json is another model's"
            )
        self._taken.add(name)
        # Opened anew for each tensor: what was mapped and read would count as the process's memory
        # for as long as its file is open.
        with self._open(path) as file:
            try:
                tensor: Tensor = file.get_tensor(name)
            except SafetensorError as error:
                raise ModelError(f"{path}: tensor {name} cannot be read: {error}") from None
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"config.json asks for {shape}"
            )
        if not tensor.is_floating_point():
            raise ModelError(
                f"{path}: tensor {name} holds {tensor.dtype}, not floating numbers; quantized "
                "weights are not supported"
            )
        return tensor

    def check_all_read(self, ignored: Collection[str]) -> None:
        """Raises :class:`ModelError` if there are tensors that nobody read.

        A model that leaves some of its weights out would answer, only wrongly.
        """
        known = self._taken | set(ignored)
        left = sorted(n for n in self._home if n not in known and not n.endswith(_COMPUTED))
        if left:
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            raise ModelError(
                f"{self._home[left[0]]}: {', '.join(left[:3])}{more}: no such tensor belongs to "
                "the model that config.json describes; adapters must be merged and quantized "
                "weights saved in full before they are loaded"
            )

    def _find(self) -> list[Path]:
        index = self._folder / "model.safetensors.index.json"
        if not index.exists():
            path = self._folder / "model.safetensors"
            if not path.exists() and any(self._folder.glob("*.bin")):
                raise ModelError(
                    f"{path} does not exist; weights in *.bin files are not read: convert them "
                    "with transformers, from_pretrained(…).save_pretrained(…)"
                )
            return [path]
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index}: weight_map is missing")
        return sorted({self._folder / str(name) for name in weight_map.values()})

    def _open(self, path: Path) -> safe_open:
        if not path.exists():
            raise ModelError(
                f"{path} does not exist; the checkpoint is incomplete: download the file again"
            )
        try:
            return safe_open(str(path), framework="pt", device=str(self._device))
        except (SafetensorError, OSError) as error:
            with path.open("rb") as file:
                is_pointer = file.read(len(_LFS)) == _LFS
            if is_pointer:
                raise ModelError(f"{path} is a pointer of Git LFS; run 'git lfs pull'") from None
            raise ModelError(
                f"{path} is damaged or not a safetensors file ({error}); download it again"
            ) from None

    def _names(self) -> str:
        if len(self.files) == 1:
            return str(self.files[0])
        return f"the {len(self.files)} files of {self._folder}"
