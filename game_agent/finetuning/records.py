"""What one line of training data says: blocks, and the questions that are answered from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from game_agent.agents.remembered import event_text
from game_agent.errors import InvalidInput
from game_agent.text.segmenting import segment

Segmentation = Literal["turns", "passages", "prompt"]
SEGMENTATIONS: tuple[Segmentation, ...] = get_args(Segmentation)
# How messages are signed that carry no name.
_NAMES = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Question:
    """``text`` is asked, ``answer`` is right."""

    text: str
    answer: str


@dataclass(frozen=True)
class Record:
    """Blocks in the order of the prompt, and at least one question on all of them.

    where: file and line, for people
    """

    blocks: tuple[str, ...]
    questions: tuple[Question, ...]
    where: str = ""


def parse_record(value: object, segmentation: Segmentation, where: str = "") -> Record:
    """The record of one JSON value, which has one of three forms; other members are ignored.

    ``{"blocks": […], "question": …, "answer": …}``
        blocks as they are; ``answers``, of which the first is learned, may stand for ``answer``
    ``{"blocks": […], "questions": [{"question": …, "answer": …}, …]}``
        several questions, each as if it were the only one
    ``{"messages": [{"role": …, "content": …}, …]}``
        a chat that ends with the assistant's answer to the user, see :func:`_chat`

    Raises :class:`InvalidInput`, which names the member that is wrong.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput("a record must be a JSON object")
    if "messages" in value:
        blocks, questions = _chat(_array(value, "messages"), segmentation)
    elif "blocks" in value:
        blocks = [_text(b, f"blocks/{i}") for i, b in enumerate(_array(value, "blocks"))]
        questions = _questions(value)
    else:
        raise InvalidInput("a record has `messages`, or `blocks` and a `question`")
    # A prompt always has a first block: a template may open the whole text in it.
    return Record(tuple(blocks) or ("",), tuple(questions), where)


def _questions(value: Mapping[str, object]) -> list[Question]:
    if "questions" not in value:
        return [_question(value, "")]
    several = _array(value, "questions")
    if not several:
        raise InvalidInput("questions is empty")
    return [_question(one, f"questions/{i}/") for i, one in enumerate(several)]


def _question(value: object, path: str) -> Question:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{path.rstrip('/')} must be an object")
    text = _text(value.get("question"), f"{path}question")
    if "answer" in value or "answers" not in value:
        return Question(text, _text(value.get("answer"), f"{path}answer"))
    answers = _array(value, "answers")
    if not answers:
        raise InvalidInput(f"{path}answers is empty")
    return Question(text, _text(answers[0], f"{path}answers/0"))


@dataclass(frozen=True)
class _Message:
    role: str
    name: str | None
    text: str

    @property
    def signed(self) -> str:
        """The text under its speaker's name, as turns stand in a prompt."""
        return f"{self.name or _NAMES[self.role]}: {self.text}"


def _chat(
    messages: Sequence[object], segmentation: Segmentation
) -> tuple[list[str], list[Question]]:
    """Blocks of a chat by the rules of the paper (arXiv 2409.15355), and its last question.

    The system message is apart from what was said, each turn (what the user said and the assistant
    answered) is a block, and with ``passages`` or ``prompt`` a system message is cut where it has
    paragraphs or lines. The last user's message is the event: whole, or with ``prompt`` only what
    stands behind its last cut. One that has a ``name`` is written as an agent is asked:
    ``Name: text``.
    """
    parsed = [_message(message, f"messages/{i}") for i, message in enumerate(messages)]
    blocks = [parsed.pop(0).text] if parsed and parsed[0].role == "system" else []
    for number, message in enumerate(parsed):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            raise InvalidInput(
                f"messages/{number + len(blocks)}/role must be {expected!r} here, not "
                f"{message.role!r}: user and assistant take turns"
            )
    if not parsed or len(parsed) % 2:
        raise InvalidInput("messages must end with the assistant's answer")
    *history, asked, answer = parsed
    if segmentation != "turns":
        blocks = [piece for text in blocks for piece in segment(text)]
    blocks += [f"{u.signed}\n{a.signed}" for u, a in zip(history[::2], history[1::2], strict=True)]
    event = asked.text if asked.name is None else event_text(asked.name, asked.text)
    if segmentation == "prompt":
        *pieces, event = segment(event)
        blocks += pieces
    # The format writes the line ends between blocks.
    return [block.strip("\n") for block in blocks], [Question(event, answer.text)]


def _message(value: object, path: str) -> _Message:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{path} must be an object with `role` and `content`")
    role = value.get("role")
    if role not in ("system", "user", "assistant"):
        raise InvalidInput(f"{path}/role must be system, user or assistant, not {role!r}")
    name = value.get("name")
    if name is not None:
        name = _text(name, f"{path}/name")
    return _Message(str(role), name, _text(value.get("content"), f"{path}/content"))


def _array(value: Mapping[str, object], key: str) -> Sequence[object]:
    found = value[key]
    if not isinstance(found, list):
        raise InvalidInput(f"{key} must be an array")
    return found


def _text(value: object, path: str) -> str:
    if value is None:
        raise InvalidInput(f"{path} is missing")
    if not isinstance(value, str):
        raise InvalidInput(f"{path} must be a text, not {type(value).__name__}")
    if not value.strip():
        raise InvalidInput(f"{path} is empty")
    return value
