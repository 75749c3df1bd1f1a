"""Files of examples, and what is read from them."""

import csv
import gzip
import importlib.util
import json
import pickle

import fsspec
import numpy as np
import pytest

from gemma import gm

ROWS = [{'prompt': f'Hello {i}', 'completion': 'é\nx'} for i in range(5)]
TOKENIZER = gm.text.Gemma3TinyTokenizer()
NO_KAULDRON = importlib.util.find_spec('kauldron') is None
NO_PYARROW = importlib.util.find_spec('pyarrow') is None


def lines(rows):
  return '\n'.join(json.dumps(row) for row in rows)


def write_parquet(path, rows):
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  with fsspec.open(str(path), 'wb') as file:
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.mark.parametrize(
  'name, text',
  [
    ('a.jsonl', lines(ROWS)),
    ('a.jsonl', '\ufeff' + lines(ROWS).replace('\n', '\r\n\r\n') + '\n'),
    ('a.ndjson', lines(ROWS)),
    ('a.json', json.dumps(ROWS, indent=1)),
    ('a.json', json.dumps({'data': ROWS})),
    ('a.json', lines(ROWS)),
  ],
)
def test_json(tmp_path, name, text):
  (tmp_path / name).write_bytes(text.encode())
  assert gm.data.read_examples(tmp_path / name) == ROWS
  zipped = tmp_path / f'{name}.gz'
  zipped.write_bytes(gzip.compress(text.encode()))
  assert gm.data.read_examples(str(zipped)) == ROWS


@pytest.mark.parametrize('name, mark', [('a.csv', ','), ('a.tsv', '\t')])
def test_tables_of_text(tmp_path, name, mark):
  with (tmp_path / name).open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, ['prompt', 'completion'], delimiter=mark)
    writer.writeheader()
    writer.writerows(ROWS)
  assert gm.data.read_examples(tmp_path / name) == ROWS


def test_several_files(tmp_path):
  for i in range(3):
    (tmp_path / f'{i}.jsonl').write_text(lines(ROWS[i : i + 1]))
  (tmp_path / 'notes.txt').write_text('no example')
  read = gm.data.read_examples
  assert read(tmp_path) == ROWS[:3]
  assert read(f'{tmp_path}/[01].jsonl') == ROWS[:2]
  files = [tmp_path / '2.jsonl', f'{tmp_path}/0.jsonl']
  assert read(files) == [ROWS[2], ROWS[0]]


def test_urls():
  for i in range(2):
    with fsspec.open(f'memory://examples/{i}.jsonl', 'w') as file:
      file.write(lines(ROWS[i : i + 1]))
  read = gm.data.read_examples
  assert read('memory://examples/1.jsonl') == ROWS[1:2]
  assert read('memory://examples/*.jsonl') == ROWS[:2]
  assert read('memory://examples/') == ROWS[:2]


@pytest.mark.parametrize(
  'name, text, words',
  [
    ('a.txt', 'x', 'no known kind.*jsonl'),
    ('a.jsonl', '{"a": 1}\n{', r'a\.jsonl:2 is no JSON'),
    ('a.jsonl', '[1]', r'a\.jsonl:1 is no example but a list'),
    ('a.json', '{"a": 1}', r'a\.json has a dict'),
    ('a.json', '[1]', r'a\.json\[0\] is no example but a int'),
    ('a.json', '{', r'a\.json is no JSON'),
    ('a.csv', 'a,b\n1', r'a\.csv:2 has not as many values'),
    ('a.csv', 'a,b\n1,2,3', r'a\.csv:2 has not as many values'),
  ],
)
def test_what_cannot_be_read(tmp_path, name, text, words):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=words):
    gm.data.read_examples(tmp_path / name)


def test_files_that_are_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='has no files'):
    gm.data.read_examples(tmp_path)
  with pytest.raises(FileNotFoundError, match='has no files'):
    gm.data.read_examples(f'{tmp_path}/*.jsonl')
  with pytest.raises(FileNotFoundError):
    gm.data.read_examples(tmp_path / 'none.jsonl')


def test_files_become_batches(tmp_path):
  (tmp_path / 'a.jsonl').write_text(lines(ROWS))
  batches = gm.data.Batches(
    gm.data.read_examples(tmp_path / 'a.jsonl'),
    batch_size=2,
    transforms=gm.data.ChatTask(tokenizer=TOKENIZER, max_length=32),
  )
  assert next(iter(batches))['input'].shape == (2, 32)


@pytest.mark.skipif(not NO_PYARROW, reason='pyarrow is installed')
def test_parquet_says_what_it_needs(tmp_path):
  (tmp_path / 'a.parquet').write_bytes(b'')
  with pytest.raises(ImportError, match=r"pip install 'gemma\[train\]'"):
    gm.data.read_examples(tmp_path / 'a.parquet')


@pytest.mark.skipif(not NO_KAULDRON, reason='Kauldron is installed')
def test_pipeline_says_what_it_needs():
  with pytest.raises(ImportError, match=r"Kauldron: pip install 'gemma\[train"):
    gm.data.Parquet(path='a.parquet', shuffle=False)


def test_parquet_files(tmp_path):
  write_parquet(tmp_path / 'a.parquet', ROWS[:3])
  write_parquet(tmp_path / 'b.parquet', ROWS[3:])
  rows = gm.data.read_examples(tmp_path)
  assert len(rows) == 5
  assert [*rows] == rows[:] == ROWS
  assert rows[-1] == ROWS[4]
  with pytest.raises(IndexError):
    rows[5]
  again = pickle.loads(pickle.dumps(rows))
  assert len(pickle.dumps(rows)) < 1000
  assert again[3] == ROWS[3]


def test_remote_parquet_files():
  paths = [f'memory://tables/{i}.parquet' for i in range(2)]
  for i, path in enumerate(paths):
    write_parquet(path, ROWS[i : i + 1])
  assert [*gm.data.read_examples(paths)] == ROWS[:2]


def test_chats_in_parquet_files(tmp_path):
  """Tables have None where a message of another row has a key."""
  messages = [
    {'role': 'user', 'content': 'Hello'},
    {'role': 'assistant', 'content': 'Hi', 'reasoning_content': 'Hm.'},
  ]
  short = [messages[0], {'role': 'assistant', 'content': 'Hi'}]
  write_parquet(tmp_path / 'a.parquet', [{'messages': messages}] * 2)
  write_parquet(tmp_path / 'b.parquet', [{'messages': short}] * 2)
  rows = gm.data.read_examples(tmp_path / 'b.parquet')
  task = gm.data.ChatTask(tokenizer=TOKENIZER, max_length=16)
  row = task(rows[0])
  np.testing.assert_array_equal(
    row['input'], task({'messages': short})['input']
  )


def pipeline(path, **options):
  pytest.importorskip('kauldron')
  pytest.importorskip('pyarrow')
  fields = {'batch_size': 2, 'seed': 0, 'num_epochs': 1, 'num_workers': 0}
  return gm.data.Parquet(path=path, **{**fields, **options})


@pytest.mark.kauldron
def test_pipeline_of_kauldron(tmp_path):
  write_parquet(tmp_path / 'a.parquet', ROWS[:3])
  write_parquet(tmp_path / 'b.parquet', ROWS[3:])
  task = gm.data.Seq2SeqTask(
    in_prompt='prompt', in_response='completion', out_input='input',
    out_target='target', out_target_mask='mask', tokenizer=TOKENIZER,
    max_length=24,
  )  # fmt: skip
  paths = [tmp_path / 'a.parquet', f'{tmp_path}/b.parquet']
  ds = pipeline(paths, shuffle=False, transforms=[task])
  from kauldron import kd

  assert isinstance(ds, kd.data.py.DataSourceBase)
  batches = [*ds]
  assert len(batches) == len(ds) == 2
  for i, batch in enumerate(batches):
    rows = [task(row) for row in ROWS[2 * i : 2 * i + 2]]
    for key in ('input', 'target', 'mask'):
      expected = np.stack([row[key] for row in rows])
      assert batch[key].dtype == expected.dtype
      np.testing.assert_array_equal(batch[key], expected)
  assert ds.element_spec['input'].shape == (2, 24)


@pytest.mark.kauldron
def test_pipeline_of_kauldron_is_shuffled(tmp_path):
  write_parquet(tmp_path / 'a.parquet', [{'a': i} for i in range(20)])
  path = str(tmp_path / 'a.parquet')

  def order(**options):
    return [int(i) for b in pipeline(path, **options) for i in b['a']]

  assert order(shuffle=False) == [*range(20)]
  assert order(shuffle=True) == order(shuffle=True) != [*range(20)]
  assert sorted(order(shuffle=True)) == [*range(20)]


@pytest.mark.kauldron
def test_pipeline_in_a_config(tmp_path):
  """As configs of Kauldron have it: resolved from names."""
  pytest.importorskip('kauldron')
  from kauldron import konfig

  write_parquet(tmp_path / 'a.parquet', ROWS)
  with konfig.imports():
    from gemma import gm as lazy

  config = lazy.data.Parquet(
    path=str(tmp_path / 'a.parquet'),
    shuffle=False,
    batch_size=2,
    seed=0,
    num_epochs=1,
    num_workers=0,
    transforms=[
      lazy.data.Tokenize(
        key='prompt', tokenizer=lazy.text.Gemma3TinyTokenizer()
      ),
      lazy.data.Pad(key='prompt', max_length=8),
      lazy.data.DecodeBytes(key='completion'),
    ],
  )
  again = konfig.ConfigDict(json.loads(config.to_json()))
  batch = next(iter(konfig.resolve(again)))
  assert batch['prompt'].shape == (2, 8)


@pytest.mark.kauldron
def test_transforms_in_grain():
  grain = pytest.importorskip('grain.python')
  rows = [{'a': [i, i]} for i in range(8)]
  pad = gm.data.Pad(key='a', max_length=3)
  assert isinstance(pad, grain.MapTransform)
  ds = grain.MapDataset.source(rows).map(pad).batch(4)
  assert ds[0]['a'].shape == (4, 3)
  loader = grain.DataLoader(
    data_source=rows,
    sampler=grain.IndexSampler(
      8, shard_options=grain.NoSharding(), num_epochs=1, seed=0
    ),
    operations=[pad, grain.Batch(4)],
    worker_count=0,
  )
  assert [batch['a'].shape for batch in loader] == [(4, 3)] * 2
  batches = gm.data.Batches(ds, batch_size=1, epochs=1)
  assert [batch['a'].shape for batch in batches] == [(1, 4, 3)] * 2
