"""How many answers of a model are exactly the right ones."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from gemma.gm.data import _chat_forms
from gemma.gm.text import _reply
from gemma.gm.text import _sampler


@dataclasses.dataclass(frozen=True)
class Answers:
  """What came of some questions.

  Attributes:
    right: How many answers were right.
    count: Of how many.
    wrong: Prompt, expected and given answer of the others.
  """

  right: int
  count: int
  wrong: list[tuple[str, str, str]] = dataclasses.field(repr=False)

  @property
  def share(self) -> float:
    """Right ones of all."""
    return self.right / self.count


def exact_answers(
  sampler: _sampler.Sampler, examples: Sequence[Mapping[str, Any]]
) -> Answers:
  """Has a model answer, and compares letter by letter.

  ```python
  >>> from gemma import gm
  >>> model, params, tokenizer = gm.from_pretrained(
  ...   gm.ckpts.CheckpointPath.GEMMA3_TINY_IT
  ... )
  >>> sampler = gm.text.Sampler(
  ...   model=model, params=params, tokenizer=tokenizer
  ... )
  >>> gm.training.exact_answers(
  ...   sampler,
  ...   [
  ...     {'prompt': 'What is 2 + 3?', 'completion': '5'},
  ...     {'prompt': 'What is 2 + 4?', 'completion': 'six'},
  ...   ],
  ... )
  Answers(right=1, count=2)

  ```

  An answer that does not end by itself is wrong.

  Args:
    sampler: With the parameters to test; it picks the likeliest token unless
      its settings say otherwise.
    examples: Conversations of any form that `gm.data.ChatTask` reads. What the
      model says last is the right answer to all before.

  Raises:
    ValueError: If there are none, or one ends with another speaker.
  """
  chats = [
    _chat_forms.chat_of(example, None, 'exact_answers').messages
    for example in examples
  ]
  if not chats:
    raise ValueError('There are no examples. Give one at least.')
  expected = [_last(i, chat) for i, chat in enumerate(chats)]
  out = sampler.sample(
    [chat[:-1] for chat in chats], rng=0, return_state=True, progress=False
  )
  wrong = []
  for i, (chat, right) in enumerate(zip(chats, expected, strict=True)):
    given = _reply.parse_reply(sampler.codec, out.token_ids[i]).text.strip()
    if given != right or out.finish_reason[i] not in ('stop', 'eos'):
      wrong.append((str(chat[-2]['content']), right, out.text[i]))
  return Answers(len(chats) - len(wrong), len(chats), wrong)


def _last(i: int, chat: Sequence[Mapping[str, Any]]) -> str:
  """What the model is to say."""
  message = chat[-1]
  if message['role'] != 'assistant' or len(chat) < 2:
    raise ValueError(
      f'Example {i} ends with role {message["role"]!r}, so there is no answer '
      "to compare with. The last message is to be the model's."
    )
  return str(message['content']).strip()
