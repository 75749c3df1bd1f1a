"""Calls of one chat at once, and streams that are left behind."""

import asyncio
import contextlib
import copy
import gc
import itertools
import pickle
import threading
import time

import pytest

from gemma import gm
from gemma.gm.text import _runner

FIELDS = {
  'cache_length': 256, 'max_out_length': 24, 'pad_length': 32,
}  # fmt: skip


@pytest.fixture
def chat(wide):
  return gm.text.ChatSampler(**wide, **FIELDS, multi_turn=True)


def users(chat):
  """What the user said, in order."""
  return [m['content'] for m in chat.messages if m['role'] == 'user']


@pytest.mark.parametrize('leave', ['new', 'restore', 'load', 'single turn'])
def test_stream_of_an_older_conversation_records_nothing(chat, tmp_path, leave):
  """Neither when it is collected, nor when it is finished late."""
  chat.chat('Before.', max_new_tokens=2)
  chat.save(tmp_path / 'chat.json')
  old = chat.stream('Old: say hello.', max_new_tokens=4)
  text = next(old)
  match leave:
    case 'new':
      chat.new_conversation()
    case 'restore':
      chat.restore(chat.messages)
    case 'load':
      chat.load(tmp_path / 'chat.json')
    case _:
      chat.chat('Alone.', max_new_tokens=2, multi_turn=False)
  chat.chat('Newer.', max_new_tokens=2)
  expected = chat.messages, chat.last_state.contexts(), chat.turns
  with pytest.warns(RuntimeWarning, match='not part of the conversation'):
    text += ''.join(old)
  assert len(text) > 2
  assert expected == (chat.messages, chat.last_state.contexts(), chat.turns)
  abandoned = chat.stream('Old: say bye.', max_new_tokens=4)
  next(abandoned)
  chat.restore(expected[0])
  del abandoned
  gc.collect()
  assert chat.messages == expected[0]
  assert chat.chat('Last.', max_new_tokens=2) is not None
  assert 'Old' not in ''.join(users(chat))


def test_call_while_a_stream_is_open_raises(chat):
  """And the stream is recorded; a call that failed opens nothing."""
  stream = chat.stream('One.', max_new_tokens=4)
  said = next(stream)
  for call in (chat.chat, chat.stream):
    with pytest.raises(RuntimeError, match='still being streamed'):
      call('Two.', max_new_tokens=2)
  with pytest.raises(RuntimeError, match='still being streamed'):
    asyncio.run(chat.chat_async('Two.'))
  said += ''.join(stream)
  assert users(chat) == ['One.']
  assert chat.messages[-1]['content'] == said
  with pytest.raises(ValueError, match='the cache holds 256'):
    chat.stream('long ' * 300)
  chat.stream('Never begun.').close()
  chat.chat('Two.', max_new_tokens=2)
  assert users(chat) == ['One.', 'Two.']


def test_call_from_within_a_call(chat):
  """What prints an answer cannot ask for another one; a failure ends it."""

  class Asks:
    def write(self, text):
      chat.chat('Inner.', max_new_tokens=2)

  with pytest.raises(RuntimeError, match='still being streamed'):
    chat.chat('Outer.', max_new_tokens=3, print_stream=Asks())
  assert users(chat) == ['Outer.']
  chat.chat('Later.', max_new_tokens=2)
  assert users(chat) == ['Outer.', 'Later.']


def test_copies_go_their_own_ways(chat):
  chat.chat('Root.', max_new_tokens=2)
  stream = chat.stream('Trunk.', max_new_tokens=3)
  next(stream)
  branches = (
    copy.copy(chat),
    copy.deepcopy(chat),
    pickle.loads(pickle.dumps(chat)),
  )
  for branch in branches:
    branch.chat('Branch.', max_new_tokens=2)
    assert users(branch) == ['Root.', 'Branch.']
  stream.close()
  assert users(chat) == ['Root.', 'Trunk.']


def test_cancelled_task_leaves_the_conversation(chat):
  """Whether its turn had come or not."""

  async def calls():
    with chat._entry.lock:  # Nobody's turn comes while they are cancelled.
      tasks = [
        asyncio.create_task(chat.chat_async(f'{i}', max_new_tokens=2))
        for i in range(3)
      ]
      await asyncio.sleep(0.05)
      for task in tasks[:2]:
        task.cancel()
      with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    await tasks[2]

  asyncio.run(calls())
  assert users(chat) == ['2']


class Hammer:
  """Asks one chat from many places.

  Attributes:
    chat: The chat.
    asked: All prompts.
    raised: Those whose call raised.
  """

  def __init__(self, chat):
    """Starts without a prompt."""
    self.chat, self.asked, self.raised = chat, [], set()

  def ask(self, prompt, how):
    """Whole, or as a stream that is dropped, closed or exhausted."""
    with self._asking(prompt):
      if how == 'whole':
        self.chat.chat(prompt, max_new_tokens=2)
      else:
        stream = self.chat.stream(prompt, max_new_tokens=3)
        next(stream)
        if how == 'closed':
          stream.close()
        elif how == 'exhausted':
          list(stream)
    return prompt not in self.raised

  async def ask_async(self, i):
    how = ('whole', 'dropped', 'slow', 'closed')[i % 4]
    prompt = f'a{i}'
    if how in ('dropped', 'closed'):
      self.ask(prompt, how)
      return
    with self._asking(prompt):
      if how == 'whole':
        await self.chat.chat_async(prompt, max_new_tokens=2)
        return
      for _ in self.chat.stream(prompt, max_new_tokens=3):
        await asyncio.sleep(0)  # Others try.

  @contextlib.contextmanager
  def _asking(self, prompt):
    self.asked.append(prompt)
    try:
      yield
    except RuntimeError as e:
      assert 'still being streamed' in str(e)
      self.raised.add(prompt)


def test_hammered_chat_keeps_every_turn_once(wide, monkeypatch):
  """By 8 threads and 50 tasks; what raised is not there."""
  monkeypatch.setattr(_runner, '_CAPACITY', 2048)
  fields = {**wide, **FIELDS, 'cache_length': 2048, 'multi_turn': True}
  chat = gm.text.ChatSampler(**fields)
  list(chat.stream('Compile.', max_new_tokens=3))
  hammer = Hammer(chat)

  def thread(i):  # Asks again when it was refused.
    for j, how in enumerate(('whole', 'dropped', 'exhausted')):
      prompts = (f't{i} {j} {again}' for again in itertools.count())
      while not hammer.ask(next(prompts), how):
        time.sleep(0.01)

  async def tasks():
    await asyncio.gather(*map(hammer.ask_async, range(50)))

  threads = [threading.Thread(target=thread, args=(i,)) for i in range(8)]
  for each in threads:
    each.start()
  asyncio.run(tasks())
  for each in threads:
    each.join()
  said = users(chat)[1:]
  assert sorted(said) == sorted({*hammer.asked} - hammer.raised)
  for i in range(8):  # In the order in which each thread asked.
    own = [prompt.split()[1] for prompt in said if prompt[:3] == f't{i} ']
    assert own == ['0', '1', '2']
  roles = [m['role'] for m in chat.messages]
  assert roles == ['user', 'model'] * (1 + len(said))
  # What the model saw is what was said.
  other = gm.text.ChatSampler(**fields)
  other.restore(chat.messages)
  answers = [c.chat('Bye.', max_new_tokens=2) for c in (chat, other)]
  assert answers[0] == answers[1]
  assert other.last_state.contexts() == chat.last_state.contexts()
