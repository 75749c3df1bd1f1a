"""What was said in a conversation, as messages and as exact token ids."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gemma.gm.nn import _like
from gemma.gm.text import _attach
from gemma.gm.text import _conversation
from gemma.gm.text import _exact
from gemma.gm.text import _formats
from gemma.gm.text import _images
from gemma.gm.text import _message
from gemma.gm.text import _parts
from gemma.gm.text import _reply
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True)
class Turn:
  """What one side says before another does.

  Attributes:
    role: `user`, `model` or `tool`.
    message: The message, without token ids.
    ids: Its tokens, one for each image. Those of the model have no end tag,
      which the next turn brings along.
    images: Its images, as the model gets to see them.
  """

  role: str
  message: Mapping[str, Any]
  ids: tuple[int, ...]
  images: tuple[np.ndarray, ...] = ()

  @property
  def calls(self) -> Sequence[Any]:
    """The `tool_calls` in it."""
    return self.message.get('tool_calls') or ()


@dataclasses.dataclass(frozen=True)
class History:
  """A conversation that can be replayed token by token.

  Attributes:
    tokenizer: The vocabulary.
    model: Who sees the images.
    turns: What was said.
    system: The content of the system message.
    thinking: Whether the model is to think.
    tools: What it may call.
  """

  tokenizer: _tokenizer.Tokenizer
  model: _like.TransformerLike
  turns: tuple[Turn, ...] = ()
  system: Any = None
  thinking: bool = False
  tools: tuple[Any, ...] = ()

  def extend(self, prompt: Any, images: Any = None) -> 'History':
    """With more turns.

    Args:
      prompt: What the user says; or messages, as dicts with `role` and
        `content`, or a `dialog.Conversation`. A turn of the model may have its
        exact `token_ids`.
      images: Of the prompt, beside those that messages have in them.

    Raises:
      ValueError: If the prompt is empty, if roles do not alternate, or if an
        image has no place, or a place no image.
      TypeError: If it is of no such form.
    """
    if _images.are_given(images):
      _images.check_sees(self.model)
    (given,) = _images.by_prompt(images, 1, batched=False).rows
    if isinstance(prompt, str):
      prompt = [{'role': 'user', 'content': prompt}]
    if isinstance(prompt, _conversation.Conversation):
      self._check_asked(_conversation.said_in(prompt))
    history = self
    for message in _attach.fill(_conversation.as_messages(prompt), given):
      history = history._say(message)
    return history

  def _say(self, message: _message.Message) -> 'History':
    role = message['role']
    before = self.turns[-1] if self.turns else None
    opens = before is None and self.system is None
    if opens and _message.ROLES.get(role) == 'system':
      return dataclasses.replace(self, system=_attach.kept(message['content']))
    expected = _conversation.next_roles(
      None if before is None else before.role,
      called=before is not None and bool(before.calls),
    )
    match _conversation.checked_role(len(self.turns), role, expected):
      case 'user':
        return self.ask(message['content'])
      case 'tool':
        return self._respond(message)
      case _:
        i = len(self.turns)
        return self.answer(message, _exact.ids_of(self.tokenizer, message, i))

  @property
  def messages(self) -> list[dict[str, Any]]:
    """The conversation as dicts; the model's have their exact `token_ids`.

    Not if a control token is among them that no message may have.
    """
    out: list[dict[str, Any]] = []
    if self.system is not None:
      out.append({'role': 'system', 'content': self.system})
    for turn in self.turns:
      message = {'role': turn.role, **turn.message}
      if turn.role == 'model' and _exact.can_be_given(self.tokenizer, turn.ids):
        message['token_ids'] = list(turn.ids)
      out.append(message)
    return out

  @property
  def ids(self) -> list[int]:
    """Every token from `<bos>` to the newest turn, as the model sees them."""
    return self.since(0)

  def since(self, first: int) -> list[int]:
    """The tokens from a turn on, with those that open a conversation."""
    ids = [] if first else self._opened
    for i in range(first, len(self.turns)):
      ids += self._piece(i)
    return ids

  @property
  def lead(self) -> list[int]:
    """What opens the model's turn; nothing, if that goes on."""
    if self.turns[-1].role != 'user':
      return []
    seeds = (
      self.tokenizer.begins_with_thought(self.model.config)
      and not self.thinking
    )
    return _template.lead(self.tokenizer, empty_thought=seeds)

  @property
  def forgets(self) -> bool:
    """Whether later turns will not see all that the model is about to say."""
    seeds = self.tokenizer.begins_with_thought(self.model.config)
    return self._form.forgets and (self.thinking or seeds)

  @property
  def texts(self) -> list[str]:
    """What each turn adds to the text of all of them, tags included."""
    texts = []
    for i, turn in enumerate(self.turns):
      if turn.role == 'model':
        ids = [*turn.ids, self._end(i)]
      else:
        ids = self._piece(i) if i else self._opened + self._piece(0)
        if i and self.turns[i - 1].role == 'model':
          ids = ids[1:]  # The end is there already.
        if turn.role == 'user':
          ids += _template.lead(self.tokenizer)
      texts.append(self.tokenizer.decode(ids))
    return texts

  @property
  def images(self) -> list[np.ndarray]:
    """Every image, as the model gets to see it."""
    return [image for turn in self.turns for image in turn.images]

  @property
  def length(self) -> int:
    """Tokens of the conversation, those of images included."""
    ids = self.model.config.image_tokens
    image = len(ids.around(_images.soft_tokens_of(self.model)))
    tokens = len(self.ids) + len(self.lead)
    return tokens + len(self.images) * (image - 1)

  def images_in(self, ids: Sequence[int]) -> list[np.ndarray]:
    """The images of the newest tokens, which have one for each of them."""
    special = self.tokenizer.special_tokens.__members__
    images = self.images
    if not images:
      return []
    count = ids.count(special['IMAGE_PLACEHOLDER'])
    return images[len(images) - count :]

  def ask(self, content: Any) -> 'History':
    """With one more turn of the user."""
    if isinstance(content, str) and not content.strip():
      raise ValueError(f'The prompt {content!r} is empty. Give some text.')
    message = {'role': 'user', 'content': content}
    first = not self.turns and self.system is not None
    system = [{'role': 'system', 'content': self.system}] if first else []
    said = _conversation.said_in([*system, message])
    *_, turn = _conversation.turns_of(said, system_turn=self._form.system_turn)
    ids = _template.encode_turn(self.tokenizer, turn)
    sources = [
      part.source
      for _, parts in said
      for part in parts
      if _conversation.is_image(part)
    ]
    if sources:
      _images.check_sees(self.model)
    own = sum(source is not None for source in sources)
    if own < len(sources):
      raise _images.count_error(own, len(sources), f'turn {len(self.turns)}')
    where = f'turn {len(self.turns)} of the conversation'
    images = _images.Reader(self.model).pixels(sources, where)
    return self._with(
      Turn(
        role='user',
        message={'content': _attach.kept(content)},
        ids=(*ids, *_template.turn_end(self.tokenizer)),
        images=tuple(images),
      )
    )

  def answer(
    self, message: _message.Message, ids: Sequence[int] | None
  ) -> 'History':
    """With one more turn of the model; its end tag is left out.

    Args:
      message: What it said.
      ids: The exact tokens; by default those that its parts have.

    Raises:
      ValueError: If it has media in it.
    """
    if ids is None:
      _, parts = _message.parts_of(0, {**message, 'role': 'model'})
      for part in parts:
        if isinstance(part, _parts.Attachment):
          kind = part.media.name.lower()
          raise ValueError(
            f'The model says an {kind}, but it writes text only. Leave it out.'
          )
      ids = _template.encode_parts(self.tokenizer, parts)
    ids = _exact.without_end(self.tokenizer, ids)
    kept = {k: v for k, v in message.items() if k not in ('role', 'token_ids')}
    return self._with(Turn('model', kept, ids))

  def without_oldest(self) -> 'History':
    """From the user's second turn on; the system message stays."""
    roles = [turn.role for turn in self.turns]
    rest = dataclasses.replace(self, turns=())
    second = roles.index('user', 1) if self.can_drop else len(roles)
    if second < len(roles):
      rest = rest.ask(self.turns[second].message['content'])
    return dataclasses.replace(
      rest, turns=rest.turns + self.turns[second + 1 :]
    )

  @property
  def can_drop(self) -> bool:
    """Whether the user spoke more than once."""
    return [turn.role for turn in self.turns].count('user') > 1

  @property
  def _form(self) -> _formats.Format:
    return _formats.of(self.tokenizer)

  @property
  def _opened(self) -> list[int]:
    """`<bos>`, and the system turn if there is one."""
    turns: list[_conversation.Turn] = []
    if self.system is not None and self._form.system_turn:
      message = {'role': 'system', 'content': self.system}
      _, parts = _message.parts_of(0, message)
      turns = [_conversation.as_system_turn(parts)]
    ids = [int(self.tokenizer.special_tokens.BOS)]
    for turn in _template.instructed(
      self.tokenizer, turns, thinking=self.thinking, tools=self.tools
    ):
      ids += _template.encode_turn(self.tokenizer, turn)
      ids += _template.turn_end(self.tokenizer)
    return ids

  def _piece(self, i: int) -> list[int]:
    """The tokens of a turn, and those between it and the one before."""
    turn, before = self.turns[i], self.turns[i - 1].role if i else None
    if turn.role == 'user' and before == 'model':
      return [*_template.turn_end(self.tokenizer), *turn.ids]
    if turn.role != 'model':
      return [*turn.ids]
    ids = [*turn.ids]
    later = any(other.role == 'user' for other in self.turns[i:])
    if later and self._form.forgets:
      ids = _reply.without_thoughts(self.tokenizer, ids)
    return _template.lead(self.tokenizer) + ids if before == 'user' else ids

  def _end(self, i: int) -> int:
    """What the model ended a turn of its own with."""
    special = self.tokenizer.special_tokens
    tool = i + 1 < len(self.turns) and self.turns[i + 1].role == 'tool'
    return special.BEGIN_OF_TOOL_RESPONSE if tool else special.END_OF_TURN

  def _check_asked(self, said: Sequence[_conversation.Said]) -> None:
    """Raises on a `dialog.Conversation` that asks for more than there is."""
    kinds = {type(part) for _, parts in said for part in parts}
    for kind, field, value in (
      (_parts.Think, 'thinking', self.thinking),
      (_parts.Tool, 'tools', self.tools),
    ):
      if kind in kinds and not value:
        raise ValueError(
          f'The conversation has a {kind.__name__}, but the chat has {field}='
          f'{value!r}. Set {field} of the ChatSampler.'
        )

  def _respond(self, message: _message.Message) -> 'History':
    """With what a tool has to say, in the turn of the model that called it."""
    called = max(i for i, turn in enumerate(self.turns) if turn.role == 'model')
    answered = len(self.turns) - 1 - called
    message = _message.named(message, self.turns[called].calls, answered)
    _, parts = _message.parts_of(len(self.turns), message)
    ids = _template.encode_parts(self.tokenizer, parts)
    kept = {key: message[key] for key in ('name', 'content')}
    return self._with(Turn('tool', kept, tuple(ids)))

  def _with(self, turn: Turn) -> 'History':
    return dataclasses.replace(self, turns=(*self.turns, turn))
