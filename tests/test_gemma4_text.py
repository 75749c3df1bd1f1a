"""Gemma 4: its tokens, conversations with thoughts and tools, and replies."""

import json
import random
import types

import pytest

import cases
from gemma import gm
from gemma.gm.text import _formats
from gemma.gm.text import _message
from gemma.gm.text import _parts
from gemma.gm.text import _template
from gemma.gm.text import _values
import gemma4
import test_safety
import test_text


@pytest.fixture(scope='module')
def tokenizer():
  return gemma4.tokenizer()


def text_of(tokenizer, messages, **options):
  """The text of a conversation; that of `<bos>` is empty."""
  ids = gm.text.encode_chat(tokenizer, messages, **options)
  assert ids.count(tokenizer.special_tokens.BOS) == 1
  return tokenizer.decode(ids)


def call(name, **arguments):
  function = {'name': name, 'arguments': arguments}
  return {'type': 'function', 'function': function}


HI = {'role': 'user', 'content': ' Hi\n'}
TOOL = {'role': 'tool', 'content': 'x'}
MODEL = {'role': 'assistant', 'content': 'x'}
WEATHER = {
  'name': 'get_weather',
  'description': 'Weather.',
  'parameters': {
    '$schema': 'https://json-schema.org/draft/2020-12/schema',
    'type': 'object',
    'required': ['city'],
    'properties': {'city': {'type': 'string'}},
  },
}
DECLARED = (
  '<|tool>declaration:get_weather{description:<|"|>Weather.<|"|>,parameters:'
  '{properties:{city:{type:<|"|>STRING<|"|>}},required:[<|"|>city<|"|>],'
  'type:<|"|>OBJECT<|"|>}}<tool|>'
)


# The vocabulary.


def test_tokens_have_the_published_ids(tokenizer):
  special = tokenizer.special_tokens
  assert tokenizer.VERSION == 4
  assert tokenizer.FORMAT == 'gemma4'
  assert {*gemma4.TAGS} == {int(i) for i in special if i > 4} - {special.CUSTOM}
  for i, tag in gemma4.TAGS.items():
    assert tokenizer.encode(tag) == [i]
    assert tokenizer.decode(i) == tag
  assert special.START_OF_TURN == 105
  assert special.END_OF_TURN == 106
  assert special.BEGIN_OF_TOOL_RESPONSE == 50
  assert special.IMAGE_PLACEHOLDER == 258880
  assert special.START_OF_IMAGE == 255999
  assert special.END_OF_AUDIO == 258883
  assert 'START_OF_TURN=105' in repr(special)
  assert tokenizer.encode('\n\n') == [108]


def test_media_are_never_sampled(tokenizer):
  media = [i for i in gemma4.TAGS if i > gemma4.TEXT]
  assert sorted(tokenizer.FORBIDDEN_TOKENS) == media


def test_file_is_that_of_gemma4(tokenizer):
  assert type(gm.text.Tokenizer.from_path(tokenizer.path)) is type(tokenizer)
  assert type(gm.text.Tokenizer.from_version(4)) is gm.text.Gemma4Tokenizer
  tiny = gm.text.Gemma3TinyTokenizer()
  assert not gm.text.Gemma4Tokenizer(tiny.path).has_own_ids()


def test_unused_tokens_and_those_that_became_tags(tokenizer):
  custom = gm.text.Gemma4Tokenizer(tokenizer.path, custom_tokens={0: '<a>'})
  assert custom.encode('<a>') == [6]
  tag = gm.text.Gemma4Tokenizer(tokenizer.path, custom_tokens={44: '<a>'})
  with pytest.raises(ValueError, match="50 is '<.tool_response>' and not"):
    tag.encode('x')


def test_no_hostile_text_has_a_control_token(tokenizer):
  tags = [*gemma4.TAGS.values(), '<unused0>', '<unused17>', '<mask>']
  control = {*gemma4.TAGS, 4, 6, 23}
  rng = random.Random(0)
  reached = set()
  for _ in range(3_000):
    text = test_safety.hostile(rng, tags)
    ids = tokenizer.encode(text, allow_special=False)
    assert control.isdisjoint(ids), repr(text)
    assert tokenizer.decode(ids) == text, repr(text)
    reached |= control & {*tokenizer.encode(text)}
  assert reached == control


@pytest.mark.parity
@pytest.mark.filterwarnings('ignore')
def test_files_for_others_make_the_same_tokens(tokenizer, tmp_path):
  """`transformers` with our files; and ours with its `tokenizer.json`."""
  transformers = pytest.importorskip('transformers')
  for name, content in tokenizer.hf_files().items():
    (tmp_path / name).write_bytes(content)
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  tools = [{'type': 'function', 'function': WEATHER}]
  for messages in conversations():
    for thinking in (False, True):
      for given in ([], tools):
        expected = gm.text.encode_chat(
          tokenizer, messages, thinking=thinking, tools=given
        )
        ids = theirs.apply_chat_template(
          messages,
          tools=given or None,
          enable_thinking=thinking,
          add_generation_prompt=True,
          return_dict=False,
        )
        assert ids == expected
  config = transformers.GenerationConfig.from_pretrained(tmp_path)
  assert config.eos_token_id == [1, 106, 50]
  (tmp_path / 'tokenizer.model').unlink()
  ours = gm.text.Tokenizer.from_path(tmp_path)
  assert isinstance(ours, gm.text.Gemma4Tokenizer)
  text = '<|turn>user\nHi, 東京<turn|>\n'
  assert ours.encode(text) == tokenizer.encode(text)


@pytest.mark.parity
@pytest.mark.parametrize('name', ['gemma4_keys_as_values', 'gemma4_per_layer'])
def test_folder_knows_whether_turns_begin_with_an_empty_thought(name, tmp_path):
  """As the model's own sampler begins them; `transformers` reads the folder."""
  transformers = pytest.importorskip('transformers')
  case = cases.NAMED[name]
  gm.ckpts.save_hf(
    tmp_path / 'm',
    model=case.model,
    params=case.params,
    tokenizer=gemma4.tokenizer(),
  )
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'm')
  text = theirs.apply_chat_template(
    [HI], add_generation_prompt=True, tokenize=False
  )
  assert text.endswith('<channel|>') == (name == 'gemma4_keys_as_values')


# Conversations.


def test_turns(tokenizer):
  messages = [
    {'role': 'system', 'content': ' Be brief.\n'},
    {'role': 'user', 'content': '  What is 2 + 2?\n'},
    {'role': 'assistant', 'content': '4'},
    {'role': 'user', 'content': 'And 3 + 3?'},
  ]
  text = (
    '<|turn>system\nBe brief.<turn|>\n<|turn>user\nWhat is 2 + 2?<turn|>\n'
    '<|turn>model\n4<turn|>\n<|turn>user\nAnd 3 + 3?<turn|>\n<|turn>model\n'
  )
  ids = gm.text.encode_chat(tokenizer, messages)
  assert ids == tokenizer.encode(text, add_bos=True)
  messages[0]['role'] = 'developer'
  assert gm.text.encode_chat(tokenizer, messages) == ids
  closed = gm.text.encode_chat(tokenizer, messages, add_generation_prompt=False)
  assert closed == ids[: -len(tokenizer.encode('<|turn>model\n'))]
  seeded = gm.text.encode_chat(tokenizer, messages, empty_thought=True)
  block = tokenizer.encode('<|channel>thought\n<channel|>')
  assert seeded == ids + block


def test_media_are_placeholders(tokenizer):
  parts = [
    {'type': 'text', 'text': 'Look: '}, {'type': 'image'}, {'type': 'audio'},
  ]  # fmt: skip
  ids = gm.text.encode_chat(tokenizer, [{'role': 'user', 'content': parts}])
  special = tokenizer.special_tokens
  assert ids.count(special.IMAGE_PLACEHOLDER) == 1
  assert ids.count(special.AUDIO_PLACEHOLDER) == 1
  assert '\nLook:<|image|><|audio|><turn|>' in tokenizer.decode(ids)


def test_thinking_is_asked_for_in_the_system_turn(tokenizer):
  turn = '<|turn>user\nHi<turn|>\n<|turn>model\n'
  on = {'thinking': True, 'empty_thought': True}
  assert text_of(tokenizer, [HI], **on) == (
    '<|turn>system\n<|think|>\n<turn|>\n' + turn
  )
  messages = [{'role': 'system', 'content': 'Be brief.'}, HI]
  assert text_of(tokenizer, messages, **on) == (
    '<|turn>system\n<|think|>\nBe brief.<turn|>\n' + turn
  )
  assert text_of(tokenizer, messages, tools=[WEATHER], **on) == (
    f'<|turn>system\n<|think|>\nBe brief.{DECLARED}<turn|>\n' + turn
  )


def test_thoughts_are_forgotten_when_the_user_speaks(tokenizer):
  thought = {'role': 'assistant', 'reasoning_content': ' Hm.\n', 'content': 'A'}
  kept = '<|turn>model\n<|channel>thought\nHm.\n<channel|>A<turn|>\n'
  text = text_of(tokenizer, [HI, thought], add_generation_prompt=False)
  assert text.endswith(kept)
  text = text_of(tokenizer, [HI, thought, HI, thought, HI])
  assert 'thought' not in text
  assert text.count('<|turn>model\nA<turn|>\n') == 2


def test_tools_within_one_turn(tokenizer):
  """Thoughts stay between calls; the turn of the model goes on."""
  messages = [
    HI,
    {
      'role': 'assistant',
      'reasoning': 'Look.',
      'content': None,
      'tool_calls': [call('get_weather', wet=True, city='Rome'), call('now')],
    },
    {'role': 'tool', 'content': {'sky': 'blue', 'C': 20.0}},
    {'role': 'tool', 'name': 'time', 'content': 'noon'},
  ]
  model = (
    '<|turn>model\n<|channel>thought\nLook.\n<channel|>'
    '<|tool_call>call:get_weather{city:<|"|>Rome<|"|>,wet:true}<tool_call|>'
    '<|tool_call>call:now{}<tool_call|>'
    '<|tool_response>response:get_weather{C:20,sky:<|"|>blue<|"|>}'
    '<tool_response|>'
    '<|tool_response>response:time{value:<|"|>noon<|"|>}<tool_response|>'
  )
  assert text_of(tokenizer, messages).endswith('Hi<turn|>\n' + model)
  messages.append({'role': 'assistant', 'content': 'Fine.'})
  closed = text_of(tokenizer, messages, add_generation_prompt=False)
  assert closed.endswith(model + 'Fine.<turn|>\n')
  messages.append(HI)
  text = text_of(tokenizer, messages, tools=[WEATHER])
  assert DECLARED in text and 'Look' not in text
  assert text.count('<|turn>model\n') == 2


def test_a_tool_is_named_by_the_call_that_it_answers(tokenizer):
  calls = [{**call('one'), 'id': 'a'}, {**call('two'), 'id': 'b'}]
  messages = [
    HI,
    {'role': 'assistant', 'tool_calls': calls},
    {**TOOL, 'tool_call_id': 'b'},
    {**TOOL, 'tool_call_id': 'a', 'content': [{'type': 'text', 'text': 'y'}]},
  ]
  text = text_of(tokenizer, messages)
  assert 'response:two{value:<|"|>x<|"|>}' in text
  assert 'response:one{value:<|"|>y<|"|>}' in text


def test_calls_without_an_answer(tokenizer):
  messages = [
    HI,
    {'role': 'assistant', 'content': '', 'tool_calls': [call('f')]},
  ]
  with pytest.raises(ValueError, match="ends with a call of 'f', and nothing"):
    gm.text.encode_chat(tokenizer, messages)
  text = text_of(tokenizer, messages, add_generation_prompt=False)
  assert text.endswith('call:f{}<tool_call|><|tool_response>')
  text = text_of(tokenizer, [*messages, HI])
  assert 'call:f{}<tool_call|><turn|>\n<|turn>user' in text


def test_arguments_as_json_text(tokenizer):
  said = call('f')
  said['function']['arguments'] = '{"b": [1, null], "a": "x"}'
  text = text_of(
    tokenizer,
    [HI, {'role': 'assistant', 'tool_calls': [said]}],
    add_generation_prompt=False,
  )
  assert 'call:f{a:<|"|>x<|"|>,b:[1,null]}' in text


@pytest.mark.parametrize(
  'messages, error',
  [
    ([HI, MODEL, TOOL], "role 'tool', but must be 'user'"),
    ([HI, TOOL], "role 'tool', but must be 'model'"),
    ([HI, {'role': 'narrator', 'content': 'x'}], "must be 'model' or 'user'"),
    (
      [HI, {**MODEL, 'tool_calls': [call('f')]}, MODEL],
      "must be 'user' or 'tool'",
    ),
    (
      [HI, {**MODEL, 'tool_calls': [call('f')]}, TOOL, TOOL],
      'has neither a name nor a call that it answers',
    ),
    (
      [HI, {**MODEL, 'tool_calls': [{'name': 'f'}]}],
      "has a tool call {'name': 'f'}, of which cannot be read: KeyError",
    ),
    (
      [HI, {**MODEL, 'tool_calls': [call('f', x=float('nan'))]}, TOOL],
      'nan is no number of JSON',
    ),
    (
      [HI, {**MODEL, 'tool_calls': [call('f', x=b'1')]}, TOOL],
      "b'1' is a bytes, which JSON has not",
    ),
    (
      [HI, {**MODEL, 'tool_calls': [call('f', x={1: 2})]}, TOOL],
      'A dict has key 1, but keys in JSON are strings',
    ),
    (
      [
        HI,
        {**MODEL, 'tool_calls': [call('f')]},
        {'role': 'tool', 'content': [{'type': 'image'}]},
      ],
      'Message 2 of a tool has media',
    ),
  ],
)
def test_conversations_that_are_none(tokenizer, messages, error):
  with pytest.raises(ValueError, match=error):
    gm.text.encode_chat(tokenizer, messages)


def test_what_other_generations_have_no_tags_for():
  tiny = gm.text.Gemma3TinyTokenizer()
  with pytest.raises(ValueError, match='thinking=True, but models with a Gem'):
    gm.text.encode_chat(tiny, [HI], thinking=True)
  with pytest.raises(ValueError, match='tools=.*Leave it out'):
    gm.text.encode_chat(tiny, [HI], tools=[WEATHER])
  with pytest.raises(ValueError, match='has a ToolCall, for which these'):
    gm.text.encode_chat(tiny, [HI, {**MODEL, 'tool_calls': [call('f')]}, HI])


# Declarations.


@pytest.mark.parametrize(
  'tool',
  [
    WEATHER,
    {'type': 'function', 'function': WEATHER},
    {
      'name': 'get_weather',
      'title': 'The weather',
      'description': 'Weather.',
      'inputSchema': WEATHER['parameters'],
      'meta': {},
    },
  ],
)
def test_declarations_of_every_form(tokenizer, tool):
  assert DECLARED in text_of(tokenizer, [HI], tools=[tool])


def test_schemas_are_printed_as_the_published_template_does(tokenizer):
  """Its keys and no others; the expected text was made with it (2026-07-09)."""
  schema = {
    'type': 'object',
    'properties': {
      'type': {'type': 'string', 'enum': ['type', 'string'], 'title': 'T'},
      'Zip': {'type': ['string', 'null'], 'default': None, 'minLength': 2},
      'when': {'anyOf': [{'type': 'number'}], 'description': 'When.'},
      'rows': {
        'type': 'array',
        'nullable': True,
        'items': {
          'type': ['object', 'null'],
          'properties': {'b': {'type': 'integer', 'minimum': 1}},
          'required': ['b'],
          'default': {'B': [1], 'a': None},
        },
        'default': [{'type': 'keep'}],
      },
      'inner': {
        'type': 'object',
        'properties': {'x': {'type': 'boolean'}},
        'required': ['x'],
        'additionalProperties': False,
      },
      'free': {'type': 'object', 'additionalProperties': {'type': 'string'}},
      'any': True,
    },
    'required': ['type', 'Zip'],
    'additionalProperties': False,
  }
  tool = {'name': 'f', 'parameters': schema, 'strict': True}
  text = text_of(tokenizer, [HI], tools=[tool])
  expected = (
    'declaration:f{description:"",parameters:{properties:{'
    'any:{type:""},'
    'free:{properties:{additionalProperties:{type:"STRING"}},type:"OBJECT"},'
    'inner:{properties:{x:{type:"BOOLEAN"}},required:["x"],type:"OBJECT"},'
    'rows:{items:{default:{"a":null,"B":[1]},properties:{b:{type:"INTEGER"}},'
    'required:["b"],type:["OBJECT","NULL"]},nullable:true,type:"ARRAY"},'
    'type:{enum:["type","string"],type:"STRING"},'
    'when:{description:"When.",type:""},'
    """Zip:{type:"['STRING', 'NULL']"}"""
    '},required:["type","Zip"],type:"OBJECT"}}'
  )
  assert f'<|tool>{expected}<tool|>' in text.replace('<|"|>', '"')


@pytest.mark.parametrize('tool', ['f', {}, {'description': 'x'}, None])
def test_declarations_of_no_tool(tokenizer, tool):
  with pytest.raises(ValueError, match='declares no tool. Give a dict with'):
    gm.text.encode_chat(tokenizer, [HI], tools=[tool])


# Values, and replies.

STRINGS = (
  '', ' ', 'Rome', '{a:1}', 'null', '1', ',', ':', ']', '"', '\\', '\n',
  '<|"|>', '<tool_call|>', '<|tool_response>', '<turn|>', '🙂', '東京', 'é\x00',
)  # fmt: skip
KEYS = ('a', 'B', 'key_1', 'x-foo', 'with space', 'a:b', '{', '<|"|>', 'é', '')


def value_of(rng, depth=0):
  """A random JSON value."""
  kind = rng.randrange(8 if depth < 3 else 6)
  if kind == 0:
    return rng.choice((None, True, False))
  if kind == 1:
    return rng.choice((0, -1, 7, 10**30, rng.randrange(-999, 999)))
  if kind == 2:
    return rng.choice((0.5, -2.0, 1e-7, 1.5e300, rng.uniform(-9, 9)))
  if kind < 6:
    return ''.join(rng.choices(STRINGS, k=rng.randrange(3)))
  if kind == 6:
    return [value_of(rng, depth + 1) for _ in range(rng.randrange(4))]
  return arguments_of(rng, depth + 1)


def arguments_of(rng, depth=0):
  keys = rng.sample(KEYS, rng.randrange(4))
  return {key: value_of(rng, depth) for key in keys}


def test_calls_are_read_as_they_were_written(tokenizer):
  rng = random.Random(0)
  for i in range(300):
    calls = [
      _parts.ToolCall(f'tool_{n}', arguments_of(rng))
      for n in range(rng.randrange(3))
    ]
    thought = rng.choice((None, 'Hm.', 'call:f{} <|channel>'))
    text = rng.choice(STRINGS)
    parts = [*([_parts.Thought(f'{thought}\n')] if thought else []), text]
    ids = _template.encode_parts(tokenizer, [*parts, *calls])
    reply = gm.text.parse_reply(tokenizer, [*ids, rng.choice((1, 50, 106))])
    assert reply == gm.text.Reply(
      text=text, thought=thought, tool_calls=tuple(calls)
    ), i


def test_keys_are_sorted_and_whole_numbers_are_integers():
  value = {'b': 2.0, 'a': [1.0, 1.5, -0.0], 'C': {'y': None, 'x': False}}
  text = ''.join(map(str, _values.write(value, 52)))
  assert text == '{a:[1,1.5,0],b:2,C:{x:false,y:null}}'
  read = _values.read([' { b : 2 , \n a:[ 1,2e3 ] } '], 52)
  assert read == {'b': 2, 'a': [1, 2000.0]}


@pytest.mark.parametrize(
  'pieces, error',
  [
    (['{a:1'], "Expected '}' at place 4"),
    (['{a:b}'], "Expected a value at place 3 of a value, but there is 'b}'"),
    (['{a:1}x'], 'Expected the end at place 5'),
    (['{', 52, 'x'], 'Expected the end of a string'),
    (['{', 52, 'x', 106, 52, ':1}'], 'end of a string.*<106>'),
    (['{:1}'], 'Expected a key'),
    (['[' * 99], 'Expected at most 64 values in each other'),
    (['--1'], 'Expected a value'),
    ([''], 'Expected a value'),
  ],
)
def test_values_that_are_none(pieces, error):
  with pytest.raises(ValueError, match=error):
    _values.read(pieces, 52)


@pytest.mark.parametrize(
  'written, reply',
  [
    ('Hi<turn|>', {'text': 'Hi'}),
    ('<|channel>thought\n<channel|>Hi<turn|>', {'text': 'Hi'}),
    (
      '<|channel>thought\nOne.\n<channel|>A<|channel>thought\nTwo.<channel|>B',
      {'text': 'AB', 'thought': 'One.\n\nTwo.'},
    ),
    ('<|channel>thought\nOne. And', {'text': '', 'thought': 'One. And'}),
    (
      'So:<|tool_call>call:f{a:b}<tool_call|><|tool_call>f<tool_call|>'
      '<|tool_call>call:g{a:1}<tool_call|><|tool_response>',
      {
        'text': 'So:',
        'tool_calls': (gm.text.ToolCall('g', {'a': 1}),),
        'unreadable': ('call:f{a:b}', 'f'),
      },
    ),
    ('call:f{}', {'text': 'call:f{}'}),
  ],
)
def test_replies(tokenizer, written, reply):
  parsed = gm.text.parse_reply(tokenizer, written)
  assert parsed == gm.text.Reply(**reply)
  assert json.loads(json.dumps(parsed.message))['content'] == parsed.text


def test_replies_of_other_generations():
  tiny = gm.text.Gemma3TinyTokenizer()
  reply = gm.text.parse_reply(tiny, '<|channel>Hi<unused44><end_of_turn>')
  assert reply == gm.text.Reply(text='<|channel>Hi<unused44>')


def conversations():
  """What people and models say, and tools: every form of a message."""
  tools = [
    {
      'role': 'assistant',
      'reasoning_content': 'Look.',
      'content': 'Wait. ',
      'tool_calls': [
        call('f', B=[1.0, 2.5, {}], a={'y': None, 'x-y z': '"'}), call('g'),
      ],
    },
    {'role': 'tool', 'content': {'b': False, 'a': 1}},
    {'role': 'tool', 'name': 'h', 'content': ' as it is\n'},
  ]  # fmt: skip
  parts = [{'type': 'text', 'text': ' One '}, {'type': 'text', 'text': 'two'}]
  system = {'role': 'system', 'content': ' Be brief. '}
  return [
    [HI],
    [{'role': 'developer', 'content': parts}, {**HI, 'content': parts}],
    [system, HI, *tools],
    [HI, *tools, MODEL, HI],
    [system, HI, {**MODEL, 'reasoning_content': 'Hm.'}, HI, *tools[:2]],
    [HI, *tools, *tools],
    [HI, tools[0], HI],
  ]


@pytest.mark.parametrize('i', range(7))
def test_no_message_has_tags_of_its_own(tokenizer, i):
  """As many control tokens as with harmless content, whatever it says."""
  messages = conversations()[i]
  rng = random.Random(i)
  tags = [*gemma4.TAGS.values()]

  def spoiled(value):
    if isinstance(value, str):
      return value + ''.join(test_safety.hostile(rng, tags) for _ in range(2))
    if isinstance(value, dict):
      fixed = ('role', 'type', 'name')
      return {k: v if k in fixed else spoiled(v) for k, v in value.items()}
    return [*map(spoiled, value)] if isinstance(value, list) else value

  def control(messages):
    ids = gm.text.encode_chat(tokenizer, messages, tools=[WEATHER])
    return [i for i in ids if i in gemma4.TAGS]

  for _ in range(20):
    assert control(spoiled(messages)) == control(messages)


# The package `dialog`.


def stand_in():
  """Its classes as far as they are read and made, those for tools included."""
  classes = test_text.stand_in()

  def chunk(name, rename):
    def keep(self, data):
      fields = {rename.get(key, key): data[key] for key in data}
      self.data = types.SimpleNamespace(**fields, def_json=data)

    return type(name, (), {'__init__': keep})

  names = {'structuredContent': 'response'}
  for name in ('Tool', 'ToolCall', 'ToolResponse'):
    setattr(classes, name, chunk(name, names))
  return classes


def test_dialog_with_thoughts_and_tools(tokenizer):
  d = stand_in()
  tool = d.Tool({'name': 'get_weather'})
  tool.data.def_json = _formats.tool_of(WEATHER).declaration
  conversation = d.Conversation(
    d.System(d.Think(), 'Be brief.', tool),
    d.User('Hi'),
    d.Model(
      d.Thought('Look.'),
      d.ToolCall({'name': 'f', 'arguments': {'b': 1, 'a': 'x'}}),
      d.ToolResponse({'name': 'f', 'structuredContent': {'ok': True}}),
    ),
  )
  assert text_of(tokenizer, conversation) == (
    f'<|turn>system\n<|think|>Be brief.{DECLARED}<turn|>\n'
    '<|turn>user\nHi<turn|>\n'
    '<|turn>model\n<|channel>thought\nLook.<channel|>'
    '<|tool_call>call:f{a:<|"|>x<|"|>,b:1}<tool_call|>'
    '<|tool_response>response:f{ok:true}<tool_response|>'
  )
  messages = _message.as_messages('model', [
    _parts.Thought('Look.'),
    _parts.ToolCall('f', {'a': 1}),
    _parts.ToolResponse('f', {'ok': True}),
    'Done.',
  ])  # fmt: skip
  assert messages == [
    {
      'role': 'model',
      'content': '',
      'reasoning_content': 'Look.',
      'tool_calls': [call('f', a=1)],
    },
    {'role': 'tool', 'name': 'f', 'content': {'ok': True}},
    {'role': 'model', 'content': 'Done.'},
  ]
