"""Training of the bundled model: tokenizer, batches, network, optimizer, the loop, the export."""

from __future__ import annotations

import os
import pickle
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from game_agent.errors import InvalidInput, TrainingError
from game_agent.training import bundled, presets, schedule, stream
from game_agent.training.attention import attend, merge
from game_agent.training.batches import (
    MAX_POSITIONS,
    Batch,
    Sample,
    collate,
    encode_scene,
    origins,
    random_sample,
)
from game_agent.training.card import accuracies, by_kind, by_skill, counts
from game_agent.training.curriculum import LEVELS, Mix, make_batch
from game_agent.training.elementwise import rms_norm, rotate, rotation_table
from game_agent.training.evaluate import (
    Label,
    Outcome,
    Score,
    Setting,
    evaluate,
    evaluate_all,
    score_samples,
)
from game_agent.training.export import export, load_exported
from game_agent.training.figures import Figures, exact_share
from game_agent.training.network import Network, NetworkSize
from game_agent.training.optimizer import MuonAdam, orthogonalise
from game_agent.training.scene import ONE_FACT, ORDER, SKILLS
from game_agent.training.scenes import make_questions, make_scene
from game_agent.training.seeding import seed_induction
from game_agent.training.tokens import (
    BLOCK,
    END,
    EVENT,
    PAD,
    REPLY,
    SPECIALS,
    plain_copy,
    train_tokenizer,
)

VOCAB = 1500
TINY = NetworkSize(
    vocab_size=VOCAB,
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=48,
)
SEEDS = st.integers(0, 2**32)


def scene_texts(seed: int, num_scenes: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(num_scenes):
        scene = make_scene(rng, 6)
        yield from scene.blocks
        yield from (question.reply for question in make_questions(rng, scene, 6))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(scene_texts(0, 60), VOCAB)


@pytest.fixture(scope="module")
def samples(tokenizer: Tokenizer) -> list[Sample]:
    rng = random.Random(3)
    scenes = [make_scene(rng, n) for n in (2, 6, 4)]
    plain = plain_copy(tokenizer)
    return [encode_scene(plain, s.blocks, make_questions(rng, s, 5)) for s in scenes]


def tiny_network(size: NetworkSize = TINY) -> Network:
    torch.manual_seed(0)
    return Network(size)


# Tokenizer


def test_every_number_up_to_999_is_one_token(tokenizer: Tokenizer) -> None:
    plain = plain_copy(tokenizer)
    assert all(len(plain.encode(str(n)).ids) == 1 for n in range(1000))
    assert tokenizer.get_vocab_size() == VOCAB


@given(text=st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(plain_copy(tokenizer).encode(text).ids) == text


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    ids = plain_copy(tokenizer).encode(" ".join(SPECIALS)).ids
    assert not set(ids) & set(range(len(SPECIALS)))
    assert [tokenizer.token_to_id(s) for s in SPECIALS] == [PAD, BLOCK, EVENT, REPLY, END]


# Batches


@given(seed=SEEDS, lengths=st.lists(st.integers(1, 400), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_gaps_are_never_negative_and_stay_in_reach(seed: int, lengths: list[int]) -> None:
    starts = origins(random.Random(seed), lengths, spread=True)
    ends = [0, *(start + n for start, n in zip(starts, lengths, strict=False))]
    assert len(starts) == len(lengths) + 1
    assert all(start >= end for start, end in zip(starts, ends, strict=True))
    assert starts[-1] <= max(MAX_POSITIONS - 512, sum(lengths))
    packed = origins(random.Random(seed), lengths, spread=False)
    assert packed == [sum(lengths[:i]) for i in range(len(lengths) + 1)]


@pytest.mark.parametrize("full", [False, True])
def test_every_token_lies_in_one_frame(samples: list[Sample], full: bool) -> None:
    batch = collate(random.Random(0), samples, full=full)
    for tables, slots in (
        (batch.context_frames, batch.context_slots),
        (batch.event_frames, batch.event_slots),
    ):
        flat = torch.cat([table.flatten() for table in tables])
        assert torch.equal(flat[slots], torch.arange(len(slots)))
    replies = [token for s in samples for _, reply in s.questions for token in reply]
    assert batch.labels.tolist() == replies
    assert batch.num_tokens == len(batch.context_slots) + len(batch.event_slots)


def test_random_samples_ask_for_what_follows() -> None:
    sample = random_sample(random.Random(0), 4, 10, 50)
    for event, reply in sample.questions:
        asked = event[1:-1]
        found = [
            block[i : i + 2 + len(reply)] for block in sample.blocks for i in range(len(block))
        ]
        assert [*asked, *reply] in found


def test_batches_are_as_large_as_asked(tokenizer: Tokenizer) -> None:
    mix = Mix(level=2, batch_tokens=4000, full_share=1.0)
    batch, name = make_batch(random.Random(0), plain_copy(tokenizer), mix)
    assert name == "full"
    assert 3000 < batch.num_tokens < 8000


def test_batches_go_from_process_to_process(samples: list[Sample]) -> None:
    batch = collate(random.Random(0), samples, full=False, grouped=True)
    arrived = pickle.loads(pickle.dumps(batch))
    for field in fields(Batch):
        one, other = getattr(batch, field.name), getattr(arrived, field.name)
        torch.testing.assert_close(one, other, rtol=0, atol=0)


# Operations, each beside what it stands for


def merged(qkv: Tensor) -> Tensor:
    """Attention of the last four rows to all before them, and causally to themselves."""
    q, k, v = qkv.unbind()
    across = attend(q[:, 5:], k[:, :5], v[:, :5], is_causal=False)
    return merge(attend(q[:, 5:], k[:, 5:], v[:, 5:], is_causal=True), across)


def test_merged_attention_is_attention_over_all_keys() -> None:
    qkv = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    full = F.scaled_dot_product_attention(*qkv.unbind(), is_causal=True)[:, 5:]
    torch.testing.assert_close(merged(qkv), full)


def test_attention_gradients_are_those_of_plain_attention() -> None:
    results = []
    for function in (
        merged,
        lambda x: F.scaled_dot_product_attention(*x.unbind(), is_causal=True)[:, 5:],
    ):
        qkv = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(0))
        qkv.requires_grad_()
        function(qkv).pow(3).sum().backward()
        results.append(qkv.grad)
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_elementwise_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 2, 8, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.rand(8, dtype=torch.float64, generator=generator).requires_grad_()
    cos, sin = rotation_table(torch.arange(5), torch.rand(4, generator=generator), torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))
    flat = x.detach().flatten(0, 1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: rms_norm(x, w, 1e-5, torch.float64), (flat, weight)
    )
    expected = F.rms_norm(flat, (8,), weight, 1e-5)
    torch.testing.assert_close(rms_norm(flat, weight, 1e-5, torch.float64), expected)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices, torch.float32))
    assert values.min() > 0.4
    assert values.max() < 1.4


# Network


def prompt_of(sample: Sample, question: int) -> tuple[list[int], list[int]]:
    """(token ids, frame of each) of one question's prompt with its reply but for the last token."""
    event, reply = sample.questions[question]
    frames = [*sample.blocks, [*event, *reply[:-1]]]
    return (
        [token for frame in frames for token in frame],
        [i for i, frame in enumerate(frames) for _ in frame],
    )


def hugging_face_logits(model: LlamaForCausalLM, ids: list[int], mask: Tensor | None) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(
            input_ids=torch.tensor([ids]),
            attention_mask=mask,
            position_ids=torch.arange(len(ids))[None],
        ).logits[0]
    return logits


def block_mask(frames: list[int]) -> Tensor:
    """[1, 1, n, n] to be added: a frame sees itself causally, the last one all before it."""
    frame = torch.tensor(frames)
    seen = (frame[:, None] == frame[None]) | (frame == frame.max())[:, None]
    seen &= torch.ones(len(frames), len(frames)).tril().bool()
    return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[None, None]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_the_exported_network_is_a_hugging_face_llama(
    tmp_path: Path, tokenizer: Tokenizer, samples: list[Sample], full: bool, num_kv_heads: int
) -> None:
    export(tiny_network(replace(TINY, num_kv_heads=num_kv_heads)), tokenizer, tmp_path)
    network, _ = load_exported(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    batch = collate(random.Random(0), samples, full=full)
    with torch.inference_mode():
        logits = network(batch)
    first = len(samples[0].questions)  # the first question of the second sample
    ids, frames = prompt_of(samples[1], 0)
    expected = hugging_face_logits(model, ids, None if full else block_mask(frames))
    num_labels = len(samples[1].questions[0][1])
    torch.testing.assert_close(
        logits[batch.label_questions == first], expected[-num_labels:], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("full", [False, True])
def test_groups_of_samples_give_what_single_samples_give(samples: list[Sample], full: bool) -> None:
    rng = random.Random(5)
    mixed = [
        *samples,
        *(random_sample(rng, rng.randint(1, 9), rng.randint(1, 7), VOCAB) for _ in range(9)),
    ]
    results = []
    for grouped in (False, True):
        network = tiny_network()
        batch = collate(random.Random(0), mixed, full=full, spread=0.5, grouped=grouped)
        assert bool(batch.group_events) is grouped
        logits = network(batch)
        logits.pow(2).mean().backward()
        gradients = [weight.grad for weight in network.parameters()]
        results.append([logits.detach(), *(g for g in gradients if g is not None)])
    assert 1 < len(batch.group_events) < len(mixed)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_exported_tokenizer_loads_in_transformers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    export(tiny_network(), tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.convert_tokens_to_ids("<|reply|>") == REPLY
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.bos_token_id) == (END, PAD, None)
    text = "Player: Where is the old key? 128 gold."
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_seeded_heads_copy_what_followed(samples: list[Sample]) -> None:
    size = replace(TINY, hidden_size=192, head_dim=64)
    tests = [random_sample(random.Random(i), 3, 20, VOCAB) for i in range(4)]
    accuracy = []
    for seeded in (False, True):
        network = tiny_network(size)
        if seeded:
            seed_induction(network, torch.Generator().manual_seed(0))
        batch = collate(random.Random(0), tests, full=False)
        with torch.inference_mode():
            right = network(batch).argmax(-1) == batch.labels
        accuracy.append(right.float().mean().item())
    assert accuracy[0] < 0.05
    assert accuracy[1] > 0.3


# The loop


class StepClock:
    """A second passes each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def tiny_preset() -> presets.Preset:
    return replace(
        presets.PRESETS["cpu"], size=TINY, batch_tokens=300, vocab_scenes=40, num_workers=0
    )


def test_training_goes_on_where_it_stopped(tiny_preset: presets.Preset, tmp_path: Path) -> None:
    lines: list[str] = []
    first = bundled.Training(tiny_preset, tmp_path, clock=StepClock())
    first.run(schedule.Budget(0.25), lines.append)
    second = bundled.Training(tiny_preset, tmp_path, clock=StepClock())
    assert second.load()
    assert second.elapsed_s == first.elapsed_s == 15.0
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)
    second.run(schedule.Budget(0.4), lines.append)
    assert second.elapsed_s == 24.0
    assert second.num_steps == 24
    assert lines[0].startswith("60.0%  10 s  step 10")


def test_a_budget_of_tokens_does_not_look_at_the_clock(
    tiny_preset: presets.Preset, tmp_path: Path
) -> None:
    runs = []
    for name in ("one", "other"):
        training = bundled.Training(tiny_preset, tmp_path / name, clock=StepClock())
        training.folder.mkdir(exist_ok=True)
        training.elapsed_s = 100.0 * len(runs)
        training.run(schedule.Budget(tokens=4000), lambda _: None)
        runs.append(training)
    assert runs[0].num_tokens == runs[1].num_tokens >= 4000
    for one, other in zip(*(run.network.parameters() for run in runs), strict=True):
        assert torch.equal(one, other)


def test_other_processes_make_scenes(tiny_preset: presets.Preset, tmp_path: Path) -> None:
    preset = replace(tiny_preset, num_workers=2)
    runs = []
    for name in ("one", "other"):
        training = bundled.Training(preset, tmp_path / name, clock=StepClock())
        training.run(schedule.Budget(tokens=3000), lambda _: None)
        runs.append(training)
        again = bundled.Training(preset, tmp_path / name, clock=StepClock())
        assert again.load()
        again.run(schedule.Budget(tokens=4000), lambda _: None)
        assert again.num_tokens >= 4000
    for one, other in zip(*(run.network.parameters() for run in runs), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_begins_where_the_training_is(tokenizer: Tokenizer, num_workers: int) -> None:
    def first(mix: Mix) -> tuple[Batch, str]:
        scenes = stream.SceneStream(tokenizer.to_str(), 0, mix)
        return next(iter(scenes.batches(num_workers, pinned=False)))

    assert first(Mix(random_share=1.0, batch_tokens=300))[1] == "random"
    batch, name = first(Mix(level=6, full_share=0.0, batch_tokens=300))
    assert name == "block"
    assert len(batch.context_slots) > 100
    assert first(Mix(batch_tokens=300, grouped=True))[0].group_events


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_training_that_is_told_to_stop_saves(
    tiny_preset: presets.Preset, tmp_path: Path, num_workers: int
) -> None:
    preset = replace(tiny_preset, num_workers=num_workers)
    lines: list[str] = []

    def log(line: str) -> None:
        if not lines:
            os.kill(os.getpid(), signal.SIGTERM)
        lines.append(line)

    training = bundled.Training(preset, tmp_path, clock=StepClock())
    with pytest.raises(KeyboardInterrupt):
        training.run(schedule.Budget(60), log)
    assert "goes on from here" in lines[-1]
    again = bundled.Training(preset, tmp_path, clock=StepClock())
    assert again.load()
    assert again.num_steps == training.num_steps == 10
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_figures_that_are_fetched_seldom_are_the_same() -> None:
    rng = random.Random(0)
    often, seldom = Figures(), Figures(fetch_every=4)
    for step in range(1, 11):
        name, loss, right = rng.choice(["block", "full", "random"]), rng.random(), rng.random()
        for figures in (often, seldom):
            figures.note(name, torch.tensor(loss), torch.tensor(right))
        assert (often.values == seldom.values) is (step % 4 == 0)
    seldom.fetch()
    assert often.values == seldom.values
    seldom.note("full", torch.tensor(float("nan")), torch.tensor(0.0))
    with pytest.raises(TrainingError, match="not a number"):
        seldom.fetch()


def test_replies_are_right_as_a_whole_in_training(samples: list[Sample]) -> None:
    batch = collate(random.Random(0), samples, full=False)
    logits = F.one_hot(batch.labels, VOCAB).float()
    assert exact_share(logits, batch) == 1
    logits[(batch.label_questions == 2).nonzero()[-1]] *= -1
    assert exact_share(logits, batch) == pytest.approx(14 / 15)


def test_a_diverged_training_keeps_its_checkpoint(
    tiny_preset: presets.Preset, tmp_path: Path
) -> None:
    training = bundled.Training(tiny_preset, tmp_path, clock=StepClock())
    training.save()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    torch.nn.init.constant_(training.network.lm_head.weight, float("nan"))
    with pytest.raises(TrainingError):
        training.run(schedule.Budget(0.25), lambda _: None)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_another_size_does_not_resume(tiny_preset: presets.Preset, tmp_path: Path) -> None:
    bundled.Training(tiny_preset, tmp_path, clock=StepClock()).save()
    larger = replace(tiny_preset, size=replace(TINY, num_layers=4))
    with pytest.raises(InvalidInput, match="other sizes"):
        bundled.Training(larger, tmp_path, clock=StepClock()).load()


def test_a_causal_only_run_makes_no_other_batches(
    tiny_preset: presets.Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []

    def noted(rng: random.Random, tokenizer: Tokenizer, mix: Mix) -> tuple[Batch, str]:
        batch, name = make_batch(rng, tokenizer, mix)
        names.append((mix.full_share, name))
        return batch, name

    monkeypatch.setattr(stream, "make_batch", noted)
    training = bundled.Training(tiny_preset, tmp_path, clock=StepClock(), causal_only=True)
    training.run(schedule.Budget(0.25), lambda _: None)
    assert {share for share, _ in names} == {1.0}
    assert {name for _, name in names} <= {"full", "random"}
    with pytest.raises(InvalidInput, match="trained causally only"):
        bundled.Training(tiny_preset, tmp_path, clock=StepClock()).load()
    other = replace(tiny_preset, seed=3)
    with pytest.raises(InvalidInput, match="trained with the seed 0"):
        bundled.Training(other, tmp_path, clock=StepClock(), causal_only=True).load()


def test_a_causal_only_run_is_promoted_by_full_mode_alone(
    tiny_preset: presets.Preset, tmp_path: Path
) -> None:
    for causal_only, level in ((True, 1), (False, 0)):
        training = bundled.Training(
            tiny_preset, tmp_path, clock=StepClock(), causal_only=causal_only
        )
        training.figures.values["full"] = 0.9
        for _ in range(62):
            training._promote(0.0)
        assert training.level == level


def test_training_lowers_the_loss(tiny_preset: presets.Preset, tmp_path: Path) -> None:
    training = bundled.Training(tiny_preset, tmp_path, clock=StepClock())
    batch, _ = make_batch(random.Random(0), plain_copy(training.tokenizer), Mix(batch_tokens=300))
    optimizer = MuonAdam(training.network, 3e-3, 3e-3)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(training.network(batch, torch.bfloat16), batch.labels)
        loss.backward()
        optimizer.step(1.0)
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_rates_rise_then_fall() -> None:
    assert schedule.rate_factor(0.0, 0) == pytest.approx(1 / schedule.WARM_UP_STEPS)
    assert schedule.rate_factor(0.2, 1000) == 1.0
    factors = [schedule.rate_factor(share / 20, 1000) for share in range(21)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(schedule.LAST_RATE)


def test_random_batches_stop() -> None:
    shares = [schedule.random_share(share / 20) for share in range(21)]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (0.3, 0.0)


@pytest.mark.parametrize("preset", presets.PRESETS.values(), ids=presets.PRESETS)
def test_what_a_preset_gives_fits_into_the_package(preset: presets.Preset) -> None:
    with torch.device("meta"):
        network = Network(preset.size)
    # 20 MB in float16, less what the tokenizer and the card take.
    assert 2 * sum(weight.numel() for weight in network.parameters()) < 19.6e6


def test_an_unknown_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'tpu'.*cpu, gpu"):
        bundled.train_bundled("tpu", tmp_path)


def test_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="more than 0"):
        bundled.train_bundled("cpu", tmp_path, tokens=0)


def test_a_tokenizer_is_kept_with_its_checkpoint_only(
    tiny_preset: presets.Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(presets.PRESETS, "cpu", tiny_preset)
    out, work = tmp_path / "out", tmp_path / "work"

    def train(**options: object) -> bytes:
        bundled.train_bundled(
            "cpu",
            out,
            work=work,
            minutes=0.001,
            measure=False,
            log=lambda _: None,
            **options,  # type: ignore[arg-type]
        )
        return (out / "tokenizer.json").read_bytes()

    first = train()
    (work / "tokenizer.json").write_text(
        (work / "tokenizer.json").read_text("utf-8") + " ", "utf-8"
    )
    assert train() == first
    assert (work / "tokenizer.json").read_text("utf-8").endswith(" ")
    (out / "README.md").write_text("of other weights", "utf-8")
    assert train(resume=False, seed=1) != first
    assert not (out / "README.md").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]


def test_a_training_that_begins_with_a_result(
    tiny_preset: presets.Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(presets.PRESETS, "cpu", tiny_preset)
    earlier, out = tmp_path / "earlier", tmp_path / "out"
    lines: list[str] = []

    def train(to: Path, **options: Any) -> None:
        kept: dict[str, Any] = {"minutes": 0.001, "measure": False, "log": lines.append}
        bundled.train_bundled("cpu", to, **kept | options)

    train(earlier, seed=3)
    train(out, start=earlier)
    assert (out / "tokenizer.json").read_bytes() == (earlier / "tokenizer.json").read_bytes()
    assert (out / "model.safetensors").read_bytes() != (earlier / "model.safetensors").read_bytes()
    checkpoint = tmp_path / "out-training" / "checkpoint.pt"
    with pytest.raises(InvalidInput, match="began with the weights of another model"):
        train(out)
    with pytest.raises(InvalidInput, match="no folder that train-bundled has written"):
        train(out, start=tmp_path / "typo", resume=False)
    assert checkpoint.exists()
    other = replace(tiny_preset, size=replace(tiny_preset.size, intermediate_size=80))
    monkeypatch.setitem(presets.PRESETS, "cpu", other)
    with pytest.raises(InvalidInput, match="of other sizes"):
        train(tmp_path / "b", start=earlier)
    training = bundled.Training(tiny_preset, tmp_path / "c", clock=StepClock(), start=earlier)
    assert training.level == len(LEVELS) - 1
    for name, weight in load_exported(earlier)[0].state_dict().items():
        assert torch.equal(training.network.state_dict()[name], weight)
    assert 0.8 <= training._share(schedule.Budget(tokens=10**9)) < 0.81


def test_the_whole_way_to_a_model_card(
    tiny_preset: presets.Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(presets.PRESETS, "cpu", tiny_preset)
    few = (Setting(3, full=False), Setting(3, full=True))
    measure: Callable[..., object] = evaluate_all
    monkeypatch.setattr(
        bundled,
        "evaluate_all",
        lambda *args, **kwargs: measure(*args, num_blocks=3, min_scenes=2, settings=few, **kwargs),
    )
    lines: list[str] = []
    bundled.train_bundled("cpu", tmp_path, minutes=0.01, log=lines.append)
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "| skill | 3 block | 3 full |" in card
    assert re.search(r"\| \*\*all\*\* \| \d+ \(\d+ – \d+\) \| \d+ \(\d+ – \d+\) \|", card)
    found = re.search(r"\| \*\*all\*\* \| (\d+) \((\d+)\) \|$", card, re.MULTILINE)
    assert found is not None
    asked, distinct = map(int, found.groups())
    assert asked == 2 * 16
    assert 1 < distinct <= asked
    assert "game-agent train-bundled --preset cpu" in card
    bundled.train_bundled("cpu", tmp_path, minutes=0.01, log=lines.append)
    assert any(line.startswith("resumed at") for line in lines)
    bundled.train_bundled("cpu", tmp_path / "b", minutes=0.01, measure=False, log=lines.append)
    assert not (tmp_path / "b" / "README.md").exists()
    assert (tmp_path / "b" / "model.safetensors").exists()
    bundled.train_bundled(
        "cpu", tmp_path, minutes=0.01, resume=False, causal_only=True, seed=5, log=lines.append
    )
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "plain causal attention only" in card
    assert "--preset cpu --causal-only --seed 5 --tokens" in card


# Evaluation

LABELS = [(ONE_FACT, "first"), (ORDER, "second")]


def test_a_reply_is_right_only_as_a_whole(samples: list[Sample]) -> None:
    network = tiny_network()
    optimizer = MuonAdam(network, 3e-3, 1e-2)
    sample = Sample(samples[0].blocks, samples[0].questions[:2], LABELS)
    batch = collate(random.Random(0), [sample], full=False)
    for _ in range(60):
        F.cross_entropy(network(batch), batch.labels).backward()
        optimizer.step(1.0)
    assert score_samples(network, [sample], full=False).accuracy == 1.0
    event, reply = sample.questions[1]
    wrong = Sample(sample.blocks, [sample.questions[0], (event, [*reply[:-1], PAD])], LABELS)
    score = score_samples(network, [wrong], full=False)
    assert [outcome.right for outcome in score.outcomes] == [True, False]
    assert [outcome.label for outcome in score.outcomes] == LABELS
    assert score.part(kind="second").num_asked == 1
    assert score.part(skill=ORDER).accuracy == 0
    assert score.part(skill=ONE_FACT).accuracy == 1


def test_evaluation_counts_every_question(tokenizer: Tokenizer) -> None:
    score = evaluate(
        tiny_network(),
        plain_copy(tokenizer),
        num_blocks=3,
        full=True,
        num_scenes=2,
        num_questions=5,
    )
    assert score.num_asked == 10
    assert [len(scene) for scene in score.scenes] == [5, 5]
    scores = {Setting(3, full=True): score}
    kinds = by_kind(scores)
    assert {name: part(score).num_asked for name, part in kinds.items()} == Counter(
        outcome.label.kind.replace("_", " ") for outcome in score.outcomes
    )
    assert len(accuracies("kind", kinds, scores).splitlines()) == 2 + len(kinds)
    assert len(accuracies("skill", by_skill(), scores).splitlines()) == 3 + len(SKILLS)


def test_replies_count_as_one_within_a_scene_only() -> None:
    def asked(reply: int, right: bool, skill: str = ONE_FACT) -> Outcome:
        return Outcome(Label(skill, "a_kind"), (reply, END), right)

    both = (asked(1, True), asked(1, True), asked(2, True, ORDER))
    score = Score((both, (asked(1, False),), (asked(3, False),)))
    assert (score.num_asked, score.num_distinct, score.accuracy) == (5, 4, 0.6)
    part = score.part(skill=ONE_FACT)
    assert (part.num_asked, part.num_distinct, part.accuracy) == (4, 3, 0.5)
    # The bootstrap draws scenes: with one of three right, a draw of the wrong ones only is common.
    found = score.interval
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.6, 0, 1)
    assert Score().interval is None
    scores = {Setting(8, full): score for full in (False, True)}
    scores[Setting(8, False, held_out_wording=True)] = part
    assert accuracies("skill", by_skill(), scores).splitlines()[:4] == [
        "| skill | 8 block | 8 full | 8 block, other words |",
        "| --- | --- | --- | --- |",
        "| **all** | 60 (0 – 100) | 60 (0 – 100) | 50 (0 – 100) |",
        "| one fact | 50 (0 – 100) | 50 (0 – 100) | 50 (0 – 100) |",
    ]
    table = counts("skill", by_skill(), scores).splitlines()
    assert table[0] == "| skill | 8 | 8, other words |"
    assert table[3] == "| one fact | 4 (3) | 4 (3) |"
    assert "| order | 1 (1) | – |" in table
    assert counts("kind", by_kind(scores), scores).splitlines()[2] == "| a kind | 5 (4) | 4 (3) |"


@pytest.mark.parametrize("full", [False, True])
def test_the_bundled_model_answers_about_unseen_names(full: bool) -> None:
    network, tokenizer = load_exported(Path(bundled.__file__).parents[1] / "data" / "bundled")
    score = evaluate(network, plain_copy(tokenizer), num_blocks=6, full=full, num_scenes=10)
    assert score.accuracy > 0.7
