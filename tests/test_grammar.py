"""Structured output: whatever is picked, the text has the form."""

import json
import pickle
import re
import sys

import numpy as np
import pytest

from gemma import gm

TOKENIZER = gm.text.Gemma3TinyTokenizer()
SPECIAL = TOKENIZER.special_tokens
STOPS = [int(SPECIAL.EOS), int(SPECIAL.END_OF_TURN)]
# Control, unused, turn and image tags; `\n` and its repeats are text.
CLOSED = [i for i in [*range(107), 110, 111, 112] if i not in STOPS]

PERSON = {
  'type': 'object',
  'properties': {
    'name': {'type': 'string', 'maxLength': 12},
    'age': {'type': 'integer', 'minimum': 0, 'maximum': 130},
    'home': {
      'type': 'object',
      'properties': {
        'city': {'enum': ['Köln', 'São Paulo', '東京']},
        'codes': {
          'type': 'array',
          'items': {'type': 'string', 'pattern': '^[0-9]{3}$'},
          'minItems': 1,
          'maxItems': 3,
        },
      },
      'required': ['city', 'codes'],
      'additionalProperties': False,
    },
    'note': {'type': ['boolean', 'null']},
  },
  'required': ['name', 'age', 'home'],
  'additionalProperties': False,
}


class Model:
  """As a pydantic model describes itself."""

  @classmethod
  def model_json_schema(cls):
    return PERSON


def is_person(text):
  person = json.loads(text)
  home, codes = person['home'], person['home']['codes']
  return (
    [*person][:3] == ['name', 'age', 'home']
    and isinstance(person['name'], str)
    and len(person['name']) <= 12
    and 0 <= person['age'] <= 130
    and home['city'] in ('Köln', 'São Paulo', '東京')
    and 1 <= len(codes) <= 3
    and all(re.fullmatch('[0-9]{3}', code) for code in codes)
    and person.get('note') in (None, True, False)
    and not {*person} - {*PERSON['properties']}
  )


def is_short_list(text):
  items = json.loads(text)
  return len(items) <= 4 and all(type(item) in (int, str) for item in items)


MIXED = {
  'type': 'array',
  'items': {
    'anyOf': [
      {'type': 'integer', 'minimum': -99, 'maximum': 99},
      {'type': 'string', 'maxLength': 5},
    ]
  },
  'maxItems': 4,
}
TREE = {
  '$defs': {
    'leaf': {'type': 'array', 'items': {'const': 1}, 'maxItems': 2},
    'tree': {
      'type': 'array',
      'items': {'$ref': '#/$defs/leaf'},
      'maxItems': 2,
    },
  },
  '$ref': '#/$defs/tree',
}
GREETING = r'(Bonjour|你好|Γειά)[ ,]{1,2}[ぁ-ん]{2,4}(😀|👩🏽)?'
STRING = re.compile(r'"(\\.|[^"\\])*"')
SUM = 'start: TERM ("+" TERM){0,3} "=" TERM\nTERM: /[0-9]{1,2}/ // a < b'

CASES = {
  'object': (PERSON, is_person),
  'model': (Model, is_person),
  'compact': (
    gm.text.JsonSchema(PERSON, whitespace=''),
    lambda text: is_person(text) and not re.search(r'\s', STRING.sub('', text)),
  ),
  'array': (MIXED, is_short_list),
  'references': (TREE, lambda text: len(json.loads(text)) <= 2),
  'enum': (
    {'enum': ['a b', 1, None, 'é']},
    lambda text: json.loads(text) in ['a b', 1, None, 'é'],
  ),
  'unicode': (
    gm.text.Regex(GREETING),
    lambda text: re.fullmatch(GREETING, text),
  ),
  'spaces': (
    gm.text.Regex(r'\n{1,3}  - .{0,8}\n?'),
    lambda text: re.fullmatch(r'\n{1,3}  - .{0,8}\n?', text),
  ),
  'any': (
    gm.text.Regex(r'(?s:.{5})'),
    lambda text: re.fullmatch(r'(?s:.{5})', text),
  ),
  'lark': (
    gm.text.Lark(SUM),
    lambda text: re.fullmatch(r'\d{1,2}(\+\d{1,2}){0,3}=\d{1,2}', text),
  ),
}


def compiled(schema, tokenizer=TOKENIZER):
  return gm.text.compile_grammar(tokenizer, schema)


def walk(schema, rng, limit=600):
  """Tokens of a text, each picked from those allowed."""
  matcher, tokens = compiled(schema).start(), []
  for _ in range(limit):
    allowed = matcher.allowed()
    assert allowed.shape == (TOKENIZER.vocab_size,) and allowed.dtype == bool
    assert allowed.any() and not allowed[CLOSED].any()
    assert allowed[STOPS[0]] == allowed[STOPS[1]]
    token = int(rng.choice(np.flatnonzero(allowed)))
    assert matcher.finished <= (token in STOPS)
    matcher.accept(token)
    if token in STOPS:
      assert matcher.finished
      return tokens
    tokens.append(token)
  raise AssertionError(f'no end: {TOKENIZER.decode(tokens)}')


@pytest.mark.parametrize('name', CASES)
def test_random_walks_have_the_form(name):
  schema, has_form = CASES[name]
  for seed in range(20):
    text = TOKENIZER.decode(walk(schema, np.random.RandomState(seed)))
    assert '\ufffd' not in text and has_form(text), text


@pytest.mark.parametrize(
  'text',
  [
    'The quality of mercy is not strained',
    '  two spaces, and two behind  ',
    'é 東京 👩🏽',
    'a▁b',  # The sign for a space, as itself.
    '<start_of_turn>user <unused5> <image_soft_token> <0x41>',
  ],
)
def test_a_forced_text_is_exact(text):
  schema = gm.text.JsonSchema({'const': text}, whitespace='')
  matcher, tokens = compiled(schema).start(), []
  while not matcher.finished:
    (token,) = np.flatnonzero(matcher.allowed())
    matcher.accept(int(token))
    tokens.append(token)
  assert json.loads(TOKENIZER.decode(tokens)) == text
  assert not {*tokens} & {*CLOSED}


def test_forced_text_is_cut_as_the_tokenizer_does():
  text = 'the king and the queen'
  assert walk(gm.text.Regex(text), np.random) == TOKENIZER.encode(text)


@pytest.mark.parametrize('indent', [None, 2])
def test_json_as_it_is_usually_written(indent):
  value = {
    'name': 'Zoë "Z"',
    'age': 7,
    'home': {'city': '東京', 'codes': ['123', '456']},
  }
  text = json.dumps(value, indent=indent, ensure_ascii=False)
  schema = gm.text.JsonSchema(PERSON, whitespace=r'( |\n {0,32})?')
  matcher = compiled(PERSON if indent is None else schema).start()
  for token in TOKENIZER.encode(text):
    assert not matcher.finished
    matcher.accept(token)
  assert matcher.finished


def test_stops_are_allowed_where_the_text_may_end():
  matcher = compiled(gm.text.Regex('a{1,2}')).start()
  a = TOKENIZER.encode('a')[0]
  assert not matcher.allowed()[STOPS].any()
  matcher.accept(a)
  assert matcher.allowed()[[a, *STOPS]].all() and not matcher.finished
  matcher.accept(a)
  assert matcher.finished
  np.testing.assert_array_equal(np.flatnonzero(matcher.allowed()), STOPS)
  matcher.accept(STOPS[1])
  np.testing.assert_array_equal(np.flatnonzero(matcher.allowed()), STOPS)


def test_nothing_may_be_the_whole_text():
  assert compiled(gm.text.Regex('')).start().finished


def test_matchers_are_apart():
  grammar = compiled(gm.text.Regex('a{1,2}'))
  first, second = grammar.start(), grammar.start()
  first.accept(TOKENIZER.encode('a')[0])
  assert (first.allowed() != second.allowed()).any()


@pytest.mark.parametrize('token', [-1, TOKENIZER.vocab_size, 2, STOPS[0]])
def test_what_is_not_allowed_is_refused(token):
  matcher = compiled(gm.text.Regex('ab')).start()
  with pytest.raises(ValueError, match=f'Token {token} is not allowed'):
    matcher.accept(token)
  assert not matcher.finished  # And can go on.


def test_renamed_tokens_are_text():
  tokenizer = gm.text.Gemma3TinyTokenizer(custom_tokens={0: '<tool>'})
  matcher = compiled(gm.text.Regex('<tool>'), tokenizer).start()
  matcher.accept(int(SPECIAL.CUSTOM))
  assert matcher.finished


BAD = [
  ({'type': 'strin'}, 'Invalid type: strin'),
  ({'type': 'array', 'uniqueItems': True}, 'uniqueItems'),
  ({'not': {'type': 'string'}}, r'Unimplemented keys: \["not"\]'),
  ({'type': 'string', 'format': 'zip'}, 'Unknown format: zip'),
  ({'$ref': '#/x'}, "'/x' does not exist"),
  ({'enum': []}, 'Unsatisfiable'),
  ({'enum': [{1, 2}]}, 'not JSON'),
  (gm.text.JsonSchema('boolean'), 'schema is text, but not JSON'),
  (gm.text.JsonSchema({}, whitespace='('), 'unclosed group'),
  (gm.text.Regex('(a'), 'unclosed group'),
  (gm.text.Regex('(?=a)b'), 'look-around'),
  (gm.text.Regex(r'[^\x00-\U0010ffff]'), 'No text'),
  (gm.text.Lark('start: foo'), 'unknown name: "foo"'),
  (gm.text.Lark('start: "a" <start_of_turn>'), 'Control tokens'),
  (gm.text.Lark('start: "<" <[106]> /</'), 'Control tokens'),
]


@pytest.mark.parametrize('schema, reason', BAD)
def test_bad_schemas_are_named_with_the_reason(schema, reason):
  with pytest.raises(ValueError, match=reason) as error:
    compiled(schema)
  assert repr(schema) in str(error.value)
  assert 'backtrace' not in str(error.value)


def test_compiled_once():
  assert compiled(PERSON) is compiled(dict(PERSON)) is compiled(Model)
  # Keys come in the order of the schema, so another order is another grammar.
  turned = {**PERSON, 'properties': {**PERSON['properties'], 'name': {}}}
  turned['properties'] = dict(reversed(PERSON['properties'].items()))
  assert turned == PERSON and compiled(turned) is not compiled(PERSON)


@pytest.mark.parametrize(
  'schema',
  [gm.text.Regex('a'), gm.text.Lark('start: "a"'), CASES['compact'][0]],
)
def test_schemas_are_values(schema):
  copy = pickle.loads(pickle.dumps(schema))
  assert copy == schema and hash(copy) == hash(schema)
  assert compiled(copy) is compiled(schema)


def test_without_the_library(monkeypatch):
  monkeypatch.setitem(sys.modules, 'llguidance', None)
  with pytest.raises(ImportError, match=r"pip install 'gemma\[grammar\]'"):
    compiled(PERSON)


def test_a_schema_that_grows_too_complex_is_no_end():
  matcher = compiled(gm.text.Regex('((a{1,100}){1,100}){1,100}')).start()
  a = TOKENIZER.encode('a')[0]
  with pytest.raises(RuntimeError, match='cannot be followed from here'):
    for _ in range(100):
      matcher.accept(a)
  with pytest.raises(RuntimeError, match='cannot be followed from here'):
    _ = matcher.finished
