"""Batches: what is in them, in which order, and how that is taken up again."""

import collections
import itertools
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gemma import gm
from gemma.gm.data import _transform

TOKENIZER = gm.text.Gemma3TinyTokenizer()
Batches = gm.data.Batches


def examples(count, seed=0):
  """Texts of 1 to 9 tokens, each of which names its example."""
  rng = np.random.RandomState(seed)
  return [
    {'text': [200 + i] * rng.randint(1, 10), 'id': i} for i in range(count)
  ]


def task(**options):
  return gm.data.NextTokenTask(tokenizer=TOKENIZER, add_eos=False, **options)


def some_empty(element):
  """A transform after which every fifth example has nothing to train."""
  mask = element['loss_mask'] & (element['target'][0] % 5 != 0)
  return {**element, 'loss_mask': mask}


def same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key])


def ids(batch):
  """The texts of a batch, which name their examples."""
  out = []
  for i, row in enumerate(batch['input']):
    segments = batch.get('segment_ids', (batch['input'] != 0) * 1)[i]
    for segment in range(1, segments.max() + 1):
      tokens = row[segments == segment]
      assert tokens[0] == 2
      out.append(int(batch['target'][i][segments == segment][0]) - 200)
  return out


# Rows as they come


def test_batches_are_stacked():
  batches = Batches(
    [{'a': i, 'b': np.full((2, 3), i), 'c': i / 2} for i in range(5)],
    batch_size=2,
    epochs=1,
  )
  first, second = batches
  np.testing.assert_array_equal(first['a'], np.array([0, 1]))
  assert second['b'].shape == (2, 2, 3)
  dtypes = [first[key].dtype for key in 'abc']
  assert dtypes == [np.int32, np.int32, np.float32]


def test_the_last_batch_may_be_smaller():
  rows = [{'a': i} for i in range(5)]
  for drop, sizes in ((True, [2, 2]), (False, [2, 2, 1])):
    batches = Batches(rows, batch_size=2, epochs=1, drop_remainder=drop)
    assert [len(batch['a']) for batch in batches] == sizes
    assert [len(batch['a']) for batch in batches] == sizes  # Begins anew.


def test_a_loop_goes_on():
  batches = Batches([{'a': i} for i in range(6)], batch_size=2, epochs=1)
  assert next(iter(batches))['a'].tolist() == [0, 1]
  assert [batch['a'].tolist() for batch in batches] == [[2, 3], [4, 5]]


def test_batches_run_on_across_epochs():
  batches = Batches([{'a': i} for i in range(3)], batch_size=2, epochs=3)
  assert [b['a'].tolist() for b in batches] == [[0, 1], [2, 0], [1, 2], [0, 1]]
  endless = Batches([{'a': i} for i in range(3)], batch_size=2)
  assert len([*itertools.islice(endless, 20)]) == 20
  assert endless.epoch == 13


def test_published_tasks_come_in_two_axes():
  fields = {
    'in_prompt': 'p', 'in_response': 'r', 'out_input': 'input',
    'out_target': 'target', 'out_target_mask': 'loss_mask',
  }  # fmt: skip
  (batch,) = Batches(
    [{'p': 'Hi', 'r': 'x'}, {'p': 'Hello', 'r': 'you'}],
    batch_size=2,
    transforms=gm.data.Seq2SeqTask(
      tokenizer=TOKENIZER, max_length=16, **fields
    ),
    epochs=1,
  )
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
    'input': ((2, 16), 'int32'),
    'target': ((2, 16), 'int32'),
    'loss_mask': ((2, 16), 'bool'),
  }


def test_other_keys_go_along_unless_told_not_to():
  rows = [{'text': 'Hi', 'id': i, 'name': 'x'} for i in range(2)]
  some = task(max_length=8, keep=['id', 'name'])
  (batch,) = Batches(
    rows, batch_size=2, transforms=some, epochs=1, keys=['id', 'input']
  )
  assert list(batch) == ['input', 'id']
  with pytest.raises(TypeError, match=r"'name' is a str.*keys="):
    next(iter(Batches(rows, batch_size=2, transforms=some)))
  with pytest.raises(KeyError, match=r"Batches\(keys=.*reads key 'none'.*'id'"):
    next(iter(Batches(rows, batch_size=2, keys=['none'])))


def test_arrays_of_jax_and_narrow_types_stay():
  rows = [{'a': jnp.ones(2, 'bfloat16'), 'b': np.zeros(1, np.uint8)}] * 2
  batch = next(iter(Batches(rows, batch_size=2)))
  assert batch['a'].dtype == jnp.bfloat16
  assert batch['b'].dtype == np.uint8


# Order


def test_order_follows_from_seed_and_epoch():
  def order(seed, count):
    rows = [{'a': i} for i in range(10)]
    batches = Batches(rows, batch_size=10, shuffle=True, seed=seed)
    return [b['a'].tolist() for b in itertools.islice(batches, count)]

  first = order(3, 3)
  assert first == order(3, 3)
  assert first[0] != first[1] != first[2]
  assert all(sorted(row) == [*range(10)] for row in first)
  assert first[0] != order(4, 1)[0]
  assert first[0] == [9, 4, 5, 8, 3, 7, 0, 1, 2, 6]  # On every machine.


def test_shards_share_the_examples():
  parts = [
    Batches(
      [{'a': i} for i in range(11)],
      batch_size=5,
      shuffle=True,
      epochs=1,
      shard=(i, 2),
    )
    for i in range(2)
  ]
  seen = [i for part in parts for batch in part for i in batch['a'].tolist()]
  assert len(set(seen)) == 10
  streamed = Batches(
    lambda: ({'a': i} for i in range(7)), batch_size=1, epochs=1, shard=(1, 3)
  )
  assert [int(batch['a'][0]) for batch in streamed] == [1, 4]


class Rows:
  """Random access that is no list."""

  def __len__(self):
    return 4

  def __getitem__(self, index):
    assert type(index) is int
    return {'a': index}


class Endless:
  """An iterable that is no iterator."""

  def __iter__(self):
    return ({'a': i} for i in range(4))


@pytest.mark.parametrize(
  'source',
  [
    [{'a': i} for i in range(4)],
    tuple({'a': i} for i in range(4)),
    Rows(),
    Endless(),
    lambda: [{'a': i} for i in range(4)],
    lambda: ({'a': i} for i in range(4)),
  ],
)
def test_sources(source):
  batches = Batches(source, batch_size=3, epochs=3)
  values = [batch['a'].tolist() for batch in batches]
  assert values == [[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]]


@pytest.mark.parametrize(
  'source, options, error, words',
  [
    ({'a': [1]}, {}, TypeError, 'a list of dicts'),
    ('file.jsonl', {}, TypeError, 'source is a str'),
    (iter([{'a': 1}]), {}, TypeError, 'read but once'),
    (3, {}, TypeError, 'source is a int'),
    (Endless(), {'shuffle': True}, ValueError, 'has no length'),
    ([], {}, ValueError, 'has 0 examples'),
    ([{'a': 1}], {'batch_size': 0}, ValueError, 'batch_size=0'),
    ([{'a': 1}], {'epochs': 0}, ValueError, 'epochs=0'),
    ([{'a': 1}], {'buckets': []}, ValueError, 'buckets=0'),
    ([{'a': 1}], {'pack': 4, 'buckets': [4]}, ValueError, 'one of these'),
    ([{'a': 1}], {'shard': (2, 2)}, ValueError, 'shard='),
  ],
)
def test_what_makes_no_batches(source, options, error, words):
  with pytest.raises(error, match=words):
    Batches(source, **{'batch_size': 1, **options})


# Packing


@pytest.mark.parametrize('length', [10, 16, 40])
@pytest.mark.parametrize('size', [1, 3])
def test_packing_splits_and_loses_nothing(length, size):
  rows = examples(50)
  batches = [
    *Batches(
      rows,
      batch_size=size,
      transforms=task(),
      pack=length,
      epochs=2,
      drop_remainder=False,
    )
  ]
  seen = [i for batch in batches for i in ids(batch)]
  assert collections.Counter(seen) == dict.fromkeys(range(50), 2)
  for batch in batches:
    assert {v.shape[1] for v in batch.values()} == {length}
    assert [v.dtype.name for v in batch.values()] == [
      'int32', 'int32', 'bool', 'int32',
    ]  # fmt: skip
    for segments, tokens, targets, mask in zip(
      *(batch[k] for k in ('segment_ids', 'input', 'target', 'loss_mask')),
      strict=True,
    ):
      np.testing.assert_array_equal(mask, segments > 0)
      for i in range(1, segments.max() + 1):
        (places,) = np.nonzero(segments == i)
        row = rows[targets[places[0]] - 200]['text']
        assert places.tolist() == [*range(places[0], places[-1] + 1)]
        assert tokens[places].tolist() == [2, *row[:-1]]
        assert targets[places].tolist() == row
      padding = segments == 0
      assert not (tokens[padding].any() or targets[padding].any())


def test_packing_fills_rows():
  rows = examples(400)
  used = [
    (batch['segment_ids'] > 0).mean()
    for batch in Batches(
      rows, batch_size=4, transforms=task(), pack=32, epochs=1
    )
  ]
  assert np.mean(used) > 0.97


def test_padding_of_tasks_is_taken_off():
  rows = examples(30)
  options = {'batch_size': 2, 'pack': 12, 'epochs': 1}
  short = [*Batches(rows, transforms=task(), **options)]
  padded = [*Batches(rows, transforms=task(max_length=10), **options)]
  for a, b in zip(short, padded, strict=True):
    same(a, b)


def test_what_cannot_be_packed():
  rows = examples(30)
  with pytest.raises(ValueError, match=r'has \d+ tokens, but a row has 4'):
    [*Batches(rows, batch_size=1, transforms=task(), pack=4)]
  with pytest.raises(ValueError, match=r"need 'input'.*\['text', 'id'\]"):
    [*Batches([{'text': 1, 'id': 2}], batch_size=1, pack=4)]
  with pytest.raises(ValueError, match=r"'id'\], but only tokens"):
    [*Batches(rows, batch_size=1, transforms=task(keep=['id']), pack=16)]
  pairs = gm.data.PreferenceTask(tokenizer=TOKENIZER)
  rows = [{'prompt': 'Hello', 'chosen': 'Hi', 'rejected': 'Go'}]
  with pytest.raises(ValueError, match='one row of them'):
    [*Batches(rows, batch_size=1, transforms=pairs, pack=16)]


def test_windows_of_long_texts_are_packed():
  rows = [{'text': [*range(200, 200 + n)]} for n in (3, 30, 9)]
  batches = Batches(
    rows,
    batch_size=1,
    transforms=task(max_length=8, split=True),
    pack=8,
    epochs=1,
    drop_remainder=False,
  )
  targets = np.concatenate([b['target'][b['loss_mask']] for b in batches])
  expected = sorted(t for row in rows for t in row['text'])
  assert sorted(targets.tolist()) == expected


# Buckets


def test_buckets():
  rows = examples(60)
  batches = [
    *Batches(
      rows,
      batch_size=3,
      transforms=task(),
      buckets=[10, 3, 6],
      epochs=1,
      drop_remainder=False,
    )
  ]
  assert {batch['input'].shape[1] for batch in batches} == {3, 6, 10}
  seen = [i for batch in batches for i in ids(batch)]
  assert sorted(seen) == [*range(60)]
  for batch in batches:
    longest = (batch['input'] != 0).sum(axis=1).max()
    length = batch['input'].shape[1]
    assert length == min(n for n in (3, 6, 10) if n >= longest)


def test_buckets_of_pairs():
  rows = [
    {'prompt': 'Hello', 'chosen': 'Hi', 'rejected': 'Go ' * n}
    for n in (1, 2, 20, 21)
  ]
  batches = Batches(
    rows,
    batch_size=2,
    transforms=gm.data.PreferenceTask(tokenizer=TOKENIZER),
    buckets=[16, 64],
    epochs=1,
  )
  assert [b['tokens'].shape for b in batches] == [(2, 2, 16), (2, 2, 64)]


def test_too_long_for_every_bucket():
  with pytest.raises(ValueError, match='largest of the buckets has 4') as info:
    [*Batches(examples(9), batch_size=1, transforms=task(), buckets=[2, 4])]
  assert 'truncate=True' in str(info.value)


# What is left out


def test_examples_without_a_loss_are_dropped_and_counted():
  batches = Batches(
    examples(20), batch_size=4, transforms=[task(max_length=9), some_empty],
    epochs=2,
  )  # fmt: skip
  with pytest.warns(UserWarning, match=r'4 examples of epoch [01] had noth'):
    seen = [i for batch in batches for i in ids(batch)]
  assert batches.dropped == 8
  assert sorted(seen) == sorted([i for i in range(20) if i % 5] * 2)


def test_nothing_at_all_is_an_error():
  def empty(element):
    return {**element, 'loss_mask': np.zeros_like(element['loss_mask'])}

  batches = Batches(
    examples(3), batch_size=1, transforms=[task(max_length=9), empty]
  )
  with pytest.raises(ValueError, match='no example is left: 3 had nothing'):
    next(iter(batches))
  with pytest.raises(ValueError, match='no example is left: 0'):
    next(iter(Batches([{'a': 1}], batch_size=1, transforms=lambda _: [])))


def test_truncation_is_counted():
  batches = Batches(
    examples(20), batch_size=1, transforms=task(max_length=5, truncate=True),
    epochs=1,
  )  # fmt: skip
  long = sum(len(row['text']) > 5 for row in examples(20))
  assert len([*batches]) == 20
  assert batches.truncated == long > 3
  assert batches.dropped == 0


def test_a_prompt_that_leaves_no_room_is_dropped():
  chat = gm.data.ChatTask(tokenizer=TOKENIZER, max_length=12, truncate=True)
  rows = [{'prompt': 'Hello ' * n, 'completion': 'Hi'} for n in (1, 50, 1, 60)]
  batches = Batches(rows, batch_size=1, transforms=chat, epochs=1)
  with pytest.warns(UserWarning, match='2 examples of epoch 0'):
    assert len([*batches]) == 2
  assert (batches.dropped, batches.truncated) == (2, 2)


# Positions


OPTIONS = {
  'plain': {'transforms': task(max_length=9)},
  'shuffled': {'transforms': task(max_length=9), 'shuffle': True, 'seed': 5},
  'packed': {'transforms': task(), 'pack': 12, 'shuffle': True},
  'buckets': {'transforms': task(), 'buckets': [3, 6, 9], 'shuffle': True},
  'windows': {
    'transforms': task(max_length=4, split=True), 'pack': 8, 'shuffle': True,
  },
  'smaller': {'transforms': task(), 'pack': 20, 'drop_remainder': False},
  'empty': {'transforms': [task(), some_empty], 'pack': 12},
  'streamed': {'transforms': task(), 'pack': 12},
  'sharded': {'transforms': task(), 'buckets': [9], 'shard': (1, 2)},
}  # fmt: skip


@pytest.mark.filterwarnings('ignore:.*nothing to train')
@pytest.mark.parametrize('name', OPTIONS)
def test_every_position_is_exact(name):
  def new():
    rows = examples(23)
    source = (lambda: iter(rows)) if name == 'streamed' else rows
    return Batches(source, batch_size=2, epochs=3, **OPTIONS[name])

  batches, whole, positions = new(), [], []
  positions.append(json.dumps(batches.position))
  for batch in batches:
    whole.append(batch)
    positions.append(json.dumps(batches.position))
  assert len(whole) > 10
  for i, position in enumerate(positions):
    again = new()
    again.seek(json.loads(position))
    assert json.dumps(again.position) == position
    rest = [*again]
    assert len(rest) == len(whole) - i
    for a, b in zip(rest, whole[i:], strict=True):
      same(a, b)
    assert (again.dropped, again.truncated) == (
      batches.dropped, batches.truncated,
    )  # fmt: skip


def test_positions_go_back_too():
  batches = Batches([{'a': i} for i in range(6)], batch_size=2, epochs=1)
  start = batches.position
  first = [*batches]
  batches.seek(start)
  assert len([*batches]) == len(first) == 3


def test_positions_are_small():
  batches = Batches(
    examples(100), batch_size=4, transforms=task(), pack=32, shuffle=True
  )
  for _ in itertools.islice(batches, 5):
    assert len(json.dumps(batches.position)) < 5000


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'seed': 9}, 'one of seed 9'),
    ({'waiting': [[[0, 99, 0]]]}, 'knows of number 99'),
    ({'waiting': [[[0, 0, 3]]]}, r'knows of \[0, 0, 3\]'),
    ({'waiting': [[[0, 0, 0]] * 9]}, 'has a row of'),
    ({'waiting': 3}, 'no position'),
  ],
)
def test_positions_of_something_else(changes, words):
  batches = Batches(examples(5), batch_size=1, transforms=task(), pack=12)
  with pytest.raises(ValueError, match=words):
    batches.seek({**batches.position, **changes})
  with pytest.raises(ValueError, match='no position of Batches'):
    batches.seek({})


def test_positions_go_with_checkpoints(tmp_path):
  batches = Batches(
    examples(50), batch_size=2, transforms=task(), pack=12, shuffle=True
  )
  state = {'w': np.zeros(2)}
  stream = iter(batches)
  next(stream)
  with gm.ckpts.RunCheckpoints(tmp_path) as ckpts:
    ckpts.save(1, state, data=batches.position)
  expected = next(stream)
  with gm.ckpts.RunCheckpoints(tmp_path) as ckpts:
    batches.seek(ckpts.resume(like=state).data)
  same(next(stream), expected)


# Errors


def test_errors_name_the_example_and_the_transform():
  rows = [{'text': 'Hi'}, {'txt': 'Hi'}]
  batches = Batches(rows, batch_size=1, transforms=task(max_length=9))
  stream = iter(batches)
  next(stream)
  for _ in range(2):  # It stays an error, and is no end.
    with pytest.raises(KeyError, match="NextTokenTask reads key 'text'") as e:
      next(stream)
    (note,) = e.value.__notes__
    assert note == "It was example 1 of epoch 0, with keys ['txt']."


def test_transforms_return_something():
  with pytest.raises(TypeError, match='gave a NoneType'):
    next(iter(Batches([{'a': 1}], batch_size=1, transforms=print)))
  with pytest.raises(TypeError, match='An example is a int'):
    next(iter(Batches([1, 2], batch_size=1)))


def test_shapes_that_differ():
  rows = [{'a': np.zeros(i)} for i in (2, 3)]
  with pytest.raises(ValueError, match=r"'a' has shapes \[\(2,\), \(3,\)\]"):
    next(iter(Batches(rows, batch_size=2)))
  with pytest.raises(ValueError, match="have 'b' and others have not"):
    next(iter(Batches([{'a': 1, 'b': 1}, {'a': 1}], batch_size=2)))
  with pytest.raises(ValueError, match='each token has one value'):
    row = {'input': [1, 2], 'target': [1], 'loss_mask': [True, True]}
    next(iter(Batches([row], batch_size=1)))


def test_transforms_of_other_libraries():
  class Other:
    def map(self, element):
      return {'a': element['a'] + 1}

  batches = Batches([{'a': 1}], batch_size=1, transforms=[Other(), Other()])
  assert next(iter(batches))['a'].tolist() == [3]


def test_tasks_say_where_their_rows_are():
  class Renamed(_transform.RowTransform):
    @property
    def row_keys(self):
      return _transform.RowKeys('x', 'y', 'z')

    def map(self, element):
      return {'x': element['a'], 'y': element['a'], 'z': [True] * 2}

  batch = next(
    iter(
      Batches(
        [{'a': [5, 6]}], batch_size=1, transforms=Renamed(), pack=4, epochs=9
      )
    )
  )
  assert list(batch) == ['x', 'y', 'z', 'segment_ids']


# A model


def test_packed_examples_do_not_see_each_other(wide):
  rows = [
    {'prompt': 'What is 2 + 3?', 'completion': '5'},
    {'prompt': 'Spell "fox".', 'completion': 'f o x'},
    {'prompt': 'Hello', 'completion': 'Hi'},
  ]
  chat = gm.data.ChatTask(tokenizer=TOKENIZER)
  (packed,) = Batches(rows, batch_size=1, transforms=chat, pack=80, epochs=1)
  (alone,) = Batches(
    rows, batch_size=3, transforms=chat, buckets=[48], epochs=1
  )
  assert packed['segment_ids'].max() == 3

  def losses(batch):
    out = wide['model'].apply(
      {'params': wide['params']},
      batch['input'],
      segment_ids=batch.get('segment_ids'),
    )
    values = optax.softmax_cross_entropy_with_integer_labels(
      out.logits, batch['target']
    )
    return np.asarray(values)[batch['loss_mask']]

  np.testing.assert_allclose(losses(packed), losses(alone), atol=2e-5)
