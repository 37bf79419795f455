"""8-bit weights and bfloat16 keys and values: near the exact logits, and refused where unknown."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_logits import prompt
from torch import Tensor

from game_agent.commands.options import load_runtime
from game_agent.engine import Engine
from game_agent.errors import InvalidInput
from game_agent.model.runner import load_runner
from game_agent_kernels import available_backends, multiplies_bfloat16

SETTINGS = [{"weights": "int8"}, {"kv_dtype": "bfloat16"}, {"dtype": "bfloat16"}]


def logits(folder: Path, **load: Any) -> Tensor:
    """Of a prompt with several blocks, on the CPU."""
    engine = Engine(load_runner(folder, kv_memory_bytes=2**24, device="cpu", **load))
    *blocks, event = prompt(8, [17, 40, 3, 20])
    try:
        return engine.logits(blocks, event)
    finally:
        engine.close()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_logits_stay_near(tiny_checkpoint: Path, settings: dict[str, str]) -> None:
    exact, rounded = logits(tiny_checkpoint), logits(tiny_checkpoint, **settings)
    error = (rounded - exact).std() / exact.std()
    assert 1e-6 < error < 0.03


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
@pytest.mark.parametrize("backend", available_backends())
def test_backends_agree(tiny_checkpoint: Path, backend: str, settings: dict[str, str]) -> None:
    wanted = logits(tiny_checkpoint, backend="reference", **settings)
    got = logits(tiny_checkpoint, backend=backend, **settings)
    # A key that is rounded the other way moves the logits by a fraction of bfloat16's step.
    torch.testing.assert_close(
        got, wanted, atol=2e-2 if "kv_dtype" in settings else 1e-4, rtol=1e-4
    )


def test_each_precision_has_blocks_of_its_own(tiny_checkpoint: Path) -> None:
    digests = {
        load_runner(tiny_checkpoint, kv_memory_bytes=2**20, device="cpu", **settings).digest
        for settings in ({}, *SETTINGS)
    }
    assert len(digests) == 1 + len(SETTINGS)


def test_bfloat16_halves_the_pages(tiny_checkpoint: Path) -> None:
    """The same memory holds twice as many tokens."""
    pools = [
        load_runner(tiny_checkpoint, kv_memory_bytes=2**20, device="cpu", kv_dtype=kind).pool
        for kind in ("float32", "bfloat16")
    ]
    assert pools[1].num_pages == 2 * pools[0].num_pages


def test_auto_takes_what_the_processor_multiplies(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(**settings: Any) -> torch.dtype:
        options = {"kv_memory_bytes": 2**20, "device": "cpu", "kv_dtype": "auto"} | settings
        return load_runner(tiny_checkpoint, **options).pool.keys.dtype

    for has_pairs, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("game_agent.model.runner.multiplies_bfloat16", partial(bool, has_pairs))
        assert kind() == expected
        assert kind(kv_dtype=None) == torch.float32
        assert kind(dtype="float16") == torch.float16


@pytest.mark.skipif("cpu" not in available_backends(), reason="the extension was not built")
def test_who_multiplies_bfloat16() -> None:
    from game_agent_kernels import native

    names = native.instruction_sets()
    for name in reversed(names):
        native.set_instruction_set(name)
        assert multiplies_bfloat16() == (name in ("amx", "avx512_bf16"))
    assert native.instruction_set() == names[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "int4"}, "weights must be one of int8, not 'int4'"),
        ({"kv_dtype": "int8"}, "kv_dtype must be one of float32, bfloat16, not 'int8'"),
        ({"device": "cuda", "kv_dtype": "float32"}, "set dtype"),
        ({"device": "gpu"}, "device must be one of cpu, cuda, cuda:0, not 'gpu'$"),
        ({"device": "cuda:1"}, "device must be one of cpu, cuda, cuda:0, not 'cuda:1'$"),
    ],
)
def test_unknown_settings(
    tiny_checkpoint: Path,
    settings: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InvalidInput, match=message):
        load_runner(tiny_checkpoint, kv_memory_bytes=2**20, **settings)


def test_a_gpu_that_is_not_there(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InvalidInput, match="one of cpu, not 'cuda'; torch finds no GPU"):
        load_runner(tiny_checkpoint, kv_memory_bytes=2**20, device="cuda")


def test_from_the_command_line(tiny_checkpoint: Path) -> None:
    options = {"weights": "int8", "kv_dtype": "bfloat16"}
    with load_runtime(str(tiny_checkpoint), "cpu", None, 0, 0.01, "block", **options) as runtime:
        runner = runtime.engine.runner
        assert runner.pool.keys.dtype == torch.bfloat16
        assert runner.decoder.weights.head.weight.dtype == torch.int8
