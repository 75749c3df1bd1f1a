"""What was said in a conversation, as messages and as exact token ids."""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from gemma.gm.nn import _lora
from gemma.gm.text import _attach
from gemma.gm.text import _conversation
from gemma.gm.text import _images
from gemma.gm.text import _template
from gemma.gm.text import _tokenizer


@dataclasses.dataclass(frozen=True)
class Turn:
  """One turn.

  Attributes:
    role: `user` or `model`.
    content: Text, or parts of a message.
    ids: Its tokens, one for each image. Those of the user open a turn for the
      model; those of the model have no end tag, which the next turn brings
      along.
    images: Its images, as the model gets to see them.
  """

  role: str
  content: Any
  ids: tuple[int, ...]
  images: tuple[np.ndarray, ...] = ()


@dataclasses.dataclass(frozen=True)
class History:
  """A conversation that can be replayed token by token.

  Attributes:
    tokenizer: The vocabulary.
    model: Who sees the images.
    turns: What was said.
    system: The system message, which the first user turn begins with.
  """

  tokenizer: _tokenizer.Tokenizer
  model: _lora.Model
  turns: tuple[Turn, ...] = ()
  system: str | None = None

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
    history = self
    for message in _attach.fill(_conversation.as_messages(prompt), given):
      history = history._say(message)
    return history

  def _say(self, message: _conversation.Message) -> 'History':
    role, content = message['role'], message['content']
    if role == 'system' and not self.turns and self.system is None:
      return dataclasses.replace(self, system=_attach.kept(content))
    expected = ('user', 'model')[len(self.turns) % 2]
    if _conversation.ROLES.get(role) != expected:
      raise ValueError(
        f'Turn {len(self.turns)} has role {role!r}, but must be {expected!r}: '
        'turns alternate, beginning with the user.'
      )
    if expected == 'user':
      return self.ask(content)
    return self.answer(content, message.get('token_ids'))

  @property
  def messages(self) -> list[dict[str, Any]]:
    """The conversation as dicts; the model's have their exact `token_ids`."""
    out: list[dict[str, Any]] = []
    if self.system is not None:
      out.append({'role': 'system', 'content': self.system})
    for turn in self.turns:
      message = {'role': turn.role, 'content': turn.content}
      if turn.role == 'model':
        message['token_ids'] = list(turn.ids)
      out.append(message)
    return out

  @property
  def ids(self) -> list[int]:
    """Every token, from `<bos>` on."""
    ids: list[int] = [self.tokenizer.special_tokens.BOS]
    for i, turn in enumerate(self.turns):
      ids += self.between() if i and turn.role == 'user' else []
      ids += turn.ids
    return ids

  @property
  def images(self) -> list[np.ndarray]:
    """Every image, as the model gets to see it."""
    return [image for turn in self.turns for image in turn.images]

  @property
  def length(self) -> int:
    """Tokens of the conversation, those of images included."""
    ids = self.model.config.image_tokens
    image = len(ids.around(_images.soft_tokens_of(self.model)))
    return len(self.ids) + len(self.images) * (image - 1)

  def images_in(self, ids: Sequence[int]) -> list[np.ndarray]:
    """The images of the newest tokens, which have one for each of them."""
    special = self.tokenizer.special_tokens.__members__
    images = self.images
    if not images:
      return []
    count = ids.count(special['IMAGE_PLACEHOLDER'])
    return images[len(images) - count :]

  def between(self) -> list[int]:
    """What stands between an answer and the next prompt."""
    end = self.tokenizer.special_tokens.END_OF_TURN
    return [end, *self.tokenizer.encode('\n')]

  def ask(self, content: Any) -> 'History':
    """With one more turn of the user."""
    if isinstance(content, str) and not content.strip():
      raise ValueError(f'The prompt {content!r} is empty. Give some text.')
    message = {'role': 'user', 'content': content}
    first = not self.turns and self.system is not None
    system = [{'role': 'system', 'content': self.system}] if first else []
    ids = _template.encode_chat(self.tokenizer, [*system, message])
    sources = [
      source
      for said in (*system, message)
      for source in _conversation.images_of(said['content'])
    ]
    if sources:
      _images.check_sees(self.model)
    own = sum(source is not None for source in sources)
    if own < len(sources):
      raise _images.count_error(own, len(sources), f'turn {len(self.turns)}')
    where = f'turn {len(self.turns)} of the conversation'
    images = _images.Reader(self.model).pixels(sources, where)
    return self._with(
      Turn('user', _attach.kept(content), tuple(ids[1:]), tuple(images))
    )

  def answer(self, content: Any, ids: Sequence[int] | None) -> 'History':
    """With one more turn of the model; its end tag is left out."""
    if ids is None:
      text = _conversation.text_of(content)
      ids = self.tokenizer.encode(text, allow_special=False)
    special = self.tokenizer.special_tokens
    if ids and ids[-1] in (special.END_OF_TURN, special.EOS):
      ids = ids[:-1]
    return self._with(Turn('model', content, tuple(ids)))

  def without_oldest(self) -> 'History':
    """Without the oldest question and its answer; the system message stays."""
    rest = dataclasses.replace(self, turns=())
    if len(self.turns) > 2:
      rest = rest.ask(self.turns[2].content)
    return dataclasses.replace(rest, turns=rest.turns + self.turns[3:])

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the conversation as JSON, all of it or nothing."""
    file = pathlib.Path(path)
    text = json.dumps(
      {'messages': self.messages},
      ensure_ascii=False,
      indent=1,
      default=_attach.as_json,
    )
    with tempfile.NamedTemporaryFile(
      'w', dir=file.parent, delete=False, encoding='utf-8'
    ) as out:
      out.write(text)
    os.replace(out.name, file)

  def _with(self, turn: Turn) -> 'History':
    return dataclasses.replace(self, turns=(*self.turns, turn))


def read(path: str | os.PathLike[str], empty: History) -> History:
  """The conversation that `History.save` wrote.

  Args:
    path: The file.
    empty: A conversation in which nothing was said.

  Raises:
    ValueError: If the file is not such a conversation.
  """
  text = pathlib.Path(path).read_text(encoding='utf-8')
  try:
    messages = json.loads(text)['messages']
  except (ValueError, KeyError, TypeError) as e:
    raise ValueError(
      f'{path} is not a saved conversation: {e!r}. Give a file that '
      'ChatSampler.save wrote.'
    ) from e
  return empty.extend(messages)
