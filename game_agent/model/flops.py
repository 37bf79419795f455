"""Floating-point operations of a forward pass: one formula, for ``usage``, eviction and papers."""

from __future__ import annotations

from dataclasses import dataclass

from game_agent.model.spec import ModelSpec


@dataclass(frozen=True)
class Flops:
    """Counts the operations of one model's passes; a multiply-add is two.

    With L layers, hidden size h, H query heads and G KV heads of d dimensions, MLP size m and
    vocabulary v, a row (token) costs per layer

    - 2·h·(H + 2G)·d for queries, keys and values: ``qkv``
    - 4·H·d for every key that it sees (scores, and the sum of values): ``pair``
    - 2·H·d·h for attention's output and 6·h·m for the gated MLP: ``finish``

    and 2·h·v where its logits are wanted: ``head``. The last layer of a row without logits ends
    with its keys and values. Norms, rotations and softmax are left out, as is usual.
    """

    num_layers: int
    qkv: int
    pair: int
    finish: int
    head: int

    @staticmethod
    def of(spec: ModelSpec) -> Flops:
        """The costs of a model of these sizes."""
        hidden, dim = spec.hidden_size, spec.head_dim
        return Flops(
            num_layers=spec.num_layers,
            qkv=2 * hidden * (spec.num_heads + 2 * spec.num_kv_heads) * dim,
            pair=4 * spec.num_heads * dim,
            finish=2 * spec.num_heads * dim * hidden + 6 * hidden * spec.intermediate_size,
            head=2 * hidden * spec.vocab_size,
        )

    def forward(self, num_tokens: int, num_before: int = 0, num_logits: int = 0) -> int:
        """Operations of ``num_tokens`` new rows that see ``num_before`` cached keys and each other.

        Row i sees num_before + i + 1 keys; logits are wanted of the last ``num_logits`` rows.
        """
        pairs = _num_pairs(num_tokens, num_before)
        count = (self.num_layers - 1) * (
            num_tokens * (self.qkv + self.finish) + pairs * self.pair
        ) + num_tokens * self.qkv
        if num_logits:
            pairs -= _num_pairs(num_tokens - num_logits, num_before)
            count += num_logits * (self.finish + self.head) + pairs * self.pair
        return count


def _num_pairs(num_tokens: int, num_before: int) -> int:
    """How many (row, key) pairs causality lets through."""
    return num_tokens * num_before + num_tokens * (num_tokens + 1) // 2
