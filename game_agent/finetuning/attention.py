"""The mask of a row, for torch's two ways of attention, and a model's pass over one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from game_agent.finetuning.rows import Row
from game_agent.finetuning.settings import Attention

_TILE = 128  # tokens, of FlexAttention's sparse masks

Visible = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def visibility(row: Row) -> Visible:
    """Whether query row q sees key row k, as FlexAttention asks: (batch, head, q, k) -> bool."""

    def visible(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (row.frames[q] == row.frames[k]) & (k <= q)
        context = row.is_event[q] & row.is_shared[k]
        return (row.samples[q] == row.samples[k]) & (own | context)

    return visible


def dense_mask(row: Row) -> Tensor:
    """[1, 1, T, T] bool, True where a query (third axis) sees a key."""
    rows = torch.arange(len(row), device=row.tokens.device)
    none = torch.zeros((), dtype=torch.int64)
    return visibility(row)(none, none, rows[:, None], rows[None, :])[None, None]


def block_mask(row: Row) -> BlockMask:
    """The same for FlexAttention, which skips tiles that nobody sees; T a multiple of 128."""
    return create_block_mask(
        visibility(row), None, None, len(row), len(row), device=str(row.tokens.device)
    )


def reply_logits(model: torch.nn.Module, row: Row, attention: Attention) -> Tensor:
    """Logits [N, vocab] at ``row.label_rows`` of a Hugging Face model loaded with ``attention``."""
    if attention == "flex_attention":
        row = row.padded(_TILE)
    out = model(
        input_ids=row.tokens[None],
        attention_mask=dense_mask(row) if attention == "sdpa" else block_mask(row),
        position_ids=row.positions[None],
        logits_to_keep=row.label_rows,
        use_cache=False,
    )
    logits: Tensor = out.logits[0]
    return logits


def reply_loss(logits: Tensor, row: Row) -> Tensor:
    """Cross-entropy of the replies in nats, summed over their tokens."""
    return F.cross_entropy(logits.float(), row.labels, reduction="sum")


def num_exact(logits: Tensor, row: Row) -> int:
    """How many replies greedy decoding would give: every token the likeliest after those before."""
    wrong = row.label_questions[logits.argmax(-1) != row.labels]
    return row.num_questions - len(torch.unique(wrong))
