"""``game-agent`` as a model of lm-evaluation-harness (``lm_eval``), in block mode or any other.

    python -m game_agent.evaluation.harness run --model game-agent \\
        --model_args pretrained=FOLDER,mode=block --tasks gsm8k

takes the arguments of ``lm_eval``; elsewhere importing this module registers the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import track

from game_agent.config import EngineSettings
from game_agent.engine import Engine, Sampling
from game_agent.errors import InvalidInput
from game_agent.evaluation.contexts import Context, Contexts, Ids
from game_agent.evaluation.continuations import Continuations, Goal
from game_agent.evaluation.run import Loading, Model
from game_agent.evaluation.ways import WAYS
from game_agent.text.chat_template import ChatTemplate
from game_agent.text.segmenting import MAX_BLOCKS

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError("this needs lm-evaluation-harness: pip install 'game-agent[eval]'") from error

AT_ONCE = 16  # logits of so many contexts are held
T = TypeVar("T")
R = TypeVar("R")


@register_model("game-agent")
class GameAgentLM(LM):  # type: ignore[misc]
    """A checkpoint in one of the ways of ``game-agent evaluate``, but not contextual mode.

    pretrained:   a checkpoint folder or Hub id; ``bundled`` is the package's own model
    mode:         block, full, unmoved, slots or parallel
    max_blocks:   most blocks that a context is cut into, besides its end
    max_gen_toks: most tokens of a reply where a task does not say
    add_bos_token: whether a text begins with it; None: as the tokenizer has it
    kv_memory:    GiB for cached keys and values
    """

    def __init__(
        self,
        pretrained: str = "bundled",
        mode: str = "block",
        dtype: str | None = None,
        device: str | None = None,
        batch_size: str | int | None = None,
        max_batch_size: int | None = None,
        max_blocks: int = MAX_BLOCKS,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        kv_memory: float = 1.0,
    ) -> None:
        super().__init__()
        way = WAYS.get(mode)
        if way is None or way.mode == "contextual":
            known = [name for name, each in WAYS.items() if each.mode != "contextual"]
            raise InvalidInput(f"mode must be one of {', '.join(known)}, not {mode!r}")
        self.model = Model.parse(None if pretrained == "bundled" else str(pretrained))
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            device = None  # what the harness says where nobody did
        loading = Loading(device, dtype, kv_memory_bytes=int(kv_memory * 2**30))
        runner = loading.runner(self.model)
        self._engine = Engine(runner, EngineSettings())
        self._template = ChatTemplate.load(self.model.folder)
        self._contexts = Contexts(
            runner.tokenizer.backend,
            self._template,
            is_cut=way.mode == "block",
            max_blocks=max_blocks,
            add_bos=add_bos_token,
        )
        self._continuations = Continuations(self._engine, way)
        self._prefix: Ids = self._contexts.bos[:1] or runner.spec.stop_token_ids[:1]
        self._max_gen_toks = max_gen_toks
        given = str(batch_size or "")
        self._at_once = int(given) if given.isdigit() and int(given) > 1 else AT_ONCE

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        """(log-probability, whether greedy decoding would write it) of each continuation."""
        pairs = [self._pair(*request.args) for request in requests]
        found = self._in_turns(pairs, self._continuations.likelihoods, disable_tqdm)
        results = [(each.log_prob, each.is_greedy) for each in found]
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each text, read causally in every mode: it has no context to cut."""
        results = []
        for (text,) in track([r.args for r in requests], self.model.name, disable=disable_tqdm):
            windows = get_rolling_token_windows(
                list(self._contexts.encode(text)),
                self._prefix[0],
                self._continuations.max_tokens,
                1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            sums = self._continuations.rolling([(tuple(a), tuple(b)) for a, b in pairs])
            results.append(sum(sums))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), results[-1])
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The reply to each context, without what it was to stop at."""
        asked = [
            (self._contexts.context(text or " "), self._goal(kwargs))
            for text, kwargs in (request.args for request in requests)
        ]
        results = self._in_turns(asked, self._continuations.replies, disable_tqdm)
        for request, result in zip(requests, results, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, result)
        return results

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the checkpoint's template writes it."""
        return self._contexts.render(chat_history, is_question=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, to be kept with the results."""
        return None if self._template is None else self._template.source

    @property
    def tokenizer_name(self) -> str:
        """Names what prompts depend on, for caches."""
        return str(Path(self.model.folder).resolve()).replace("/", "__")

    def _pair(self, text: str, continuation: str) -> Any:
        if text:
            return self._contexts.pair(text, continuation)
        following = self._contexts.encode(continuation)
        if following[0] != self._prefix[0]:
            following = (*self._prefix, *following)
        return Context((), following[:1]), following[1:]

    def _goal(self, kwargs: dict[str, Any]) -> Goal:
        until = kwargs.get("until") or []
        temperature = float(kwargs.get("temperature") or 0) if kwargs.get("do_sample") else 0.0
        return Goal(
            int(kwargs.get("max_gen_toks") or self._max_gen_toks),
            tuple(text for text in ([until] if isinstance(until, str) else until) if text),
            Sampling(temperature, float(kwargs.get("top_p") or 1), seed=0),
        )

    def _in_turns(
        self, items: Sequence[T], compute: Callable[[Sequence[T]], list[R]], quiet: bool
    ) -> list[R]:
        """``compute`` of all items, some at once."""
        results: list[R] = []
        starts = range(0, len(items), self._at_once)
        for start in track(starts, self.model.name, disable=quiet):
            results += compute(items[start : start + self._at_once])
        return results


if __name__ == "__main__":
    cli_evaluate()
