"""Calls of the published notebooks run unchanged, on the bundled model.

Only the names of the model, its weights and its tokenizer are others.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gemma import gm


@pytest.mark.slow
def test_sampling_notebook(capsys):
  model = gm.nn.Gemma3_Tiny()
  params = gm.ckpts.load_params(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)

  sampler = gm.text.ChatSampler(
    model=model, params=params, multi_turn=True, print_stream=True
  )
  turn0 = sampler.chat('What is 7 + 5?')
  turn1 = sampler.chat('Sort 9 2 7 4.')
  assert capsys.readouterr().out == f'{turn0}\n{turn1}\n'
  assert len(sampler.turns) == 4

  sampler = gm.text.Sampler(model=model, params=params)
  prompt = """<start_of_turn>user
What is 7 + 5?<end_of_turn>
<start_of_turn>model
"""
  out = sampler.sample(prompt, max_new_tokens=1000)
  assert out == turn0 + '<end_of_turn>'

  tokenizer = gm.text.Gemma3TinyTokenizer()
  prompt = tokenizer.encode('The capital of France is', add_bos=True)
  prompt = jnp.asarray(prompt)
  out = model.apply(
    {'params': params},
    tokens=prompt,
    return_last_only=True,  # Only the logits of the last token.
  )
  next_token = jax.random.categorical(jax.random.key(1), out.logits)
  assert isinstance(tokenizer.decode(next_token), str)
  assert tokenizer.plot_logits(out.logits).data[0].type == 'bar'


def test_tokenizer_notebook():
  tokenizer = gm.text.Gemma3TinyTokenizer()
  assert tokenizer.vocab_size == len(tokenizer.tokens) == 2048
  ids = tokenizer.encode('Derinkuyu is an underground city.')
  assert ''.join(tokenizer.split('Derinkuyu is a city.')) == (
    'Derinkuyu is a city.'
  )
  assert tokenizer.decode(ids) == 'Derinkuyu is an underground city.'
  assert isinstance(tokenizer.decode(ids[0]), str)
  special = tokenizer.special_tokens
  with_bos = tokenizer.encode(
    'Derinkuyu is an underground city.', add_bos=True, add_eos=True
  )
  assert [special.BOS, *ids, special.EOS] == with_bos
  dialogue = '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n'
  ids = tokenizer.encode(dialogue)
  assert tokenizer.decode(ids[0]) == '<start_of_turn>'
  assert tokenizer.decode(special.CUSTOM + 17) == '<unused17>'
  tokenizer = gm.text.Gemma3TinyTokenizer(
    custom_tokens={0: '<my_custom_tag>', 17: '<my_other_tag>'}
  )
  ids = tokenizer.encode('<my_other_tag>')
  assert ids == [special.CUSTOM + 17]
  assert tokenizer.decode(ids) == '<my_other_tag>'


@pytest.mark.slow
def test_multimodal_notebook():
  model = gm.nn.Gemma3_Tiny()
  params = gm.ckpts.load_params(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  tokenizer = gm.text.Gemma3TinyTokenizer()
  image = np.full((120, 90, 3), 255, np.uint8)
  image[40:80, 30:60] = (230, 20, 20)

  sampler = gm.text.ChatSampler(model=model, params=params, tokenizer=tokenizer)
  out = sampler.chat('What is in the picture? <start_of_image>', images=image)
  assert out == 'a red square'

  prompt = tokenizer.encode(
    """<start_of_turn>user
What is in the picture? <start_of_image><end_of_turn>
<start_of_turn>model
""",
    add_bos=True,
  )
  prompt = jnp.asarray(prompt)
  out = model.apply(
    {'params': params}, tokens=prompt, images=image, return_last_only=True
  )
  assert tokenizer.plot_logits(out.logits).data[0].type == 'bar'
  assert isinstance(tokenizer.decode(jnp.argmax(out.logits)), str)


def test_readme():
  """Two turns; the second goes on with the first."""
  model = gm.nn.Gemma3_Tiny()
  params = gm.ckpts.load_params(gm.ckpts.CheckpointPath.GEMMA3_TINY_IT)
  sampler = gm.text.ChatSampler(model=model, params=params, multi_turn=True)
  out0 = sampler.chat('What is 7 + 5?')
  out1 = sampler.chat('Are you sure?')
  assert out0 and out1
  assert [type(turn) for turn in sampler.turns] == [
    gm.text.Prompt,
    gm.text.Response,
  ] * 2
