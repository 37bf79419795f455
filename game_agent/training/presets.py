"""How the bundled model is trained on the machines that people have."""

from __future__ import annotations

from dataclasses import dataclass

from game_agent.training.network import NetworkSize


@dataclass(frozen=True)
class Preset:
    """Sizes, rates and times of one training.

    minutes:      wall-clock time of training, its decay included
    muon_rate, adam_rate:  highest learning rates
    batch_tokens: tokens of context and events in one step, about
    num_workers:  processes that make scenes; 0 makes them between the steps
    """

    device: str
    size: NetworkSize
    minutes: float
    muon_rate: float
    adam_rate: float
    batch_tokens: int
    num_workers: int
    vocab_scenes: int = 3000
    seed: int = 0


PRESETS = {
    "cpu": Preset(
        device="cpu",
        size=NetworkSize(
            vocab_size=3072,
            hidden_size=256,
            num_layers=4,
            num_heads=4,
            num_kv_heads=4,
            head_dim=64,
            intermediate_size=512,
        ),
        minutes=88,
        muon_rate=3e-3,
        adam_rate=3e-3,
        batch_tokens=3072,
        num_workers=0,
    ),
    "gpu": Preset(
        device="cuda",
        size=NetworkSize(
            vocab_size=3072,
            hidden_size=320,
            num_layers=6,
            num_heads=5,
            num_kv_heads=5,
            head_dim=64,
            intermediate_size=896,
        ),
        minutes=10,
        muon_rate=2e-3,
        adam_rate=2e-3,
        batch_tokens=32768,
        num_workers=12,
    ),
}
