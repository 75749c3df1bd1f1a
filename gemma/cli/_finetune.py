"""From conversations to an adapter or another model."""

import argparse
from collections.abc import Sequence
import pathlib
from typing import Any

import jax

from gemma import gm
from gemma import peft
from gemma.cli import _verbs

_TARGETS = r'^layer_\d+/(attn|mlp)'  # What adapters are of.
_RATES = {'lora': 5e-4, 'full': 2e-5}
Examples = Sequence[dict[str, Any]]
_MOST_ANSWERS = 100  # Questions that the model is asked at the end.


def finetune(args: argparse.Namespace) -> None:
  """Trains on a file, and writes what `gemma chat` opens."""
  folder = pathlib.Path(args.out).expanduser()
  target = folder / ('model' if args.full else 'adapter')
  if target.exists():  # Said before the weights are read, not after.
    raise FileExistsError(
      f'{target} exists: that run is done. Remove it or choose another --out.'
    )
  examples = gm.data.read_examples(args.data)
  held_out = gm.data.read_examples(args.eval_data) if args.eval_data else []
  model, params, tokenizer = _verbs.open_model(
    args.model, quantize=args.quantize or False
  )
  optimizer = gm.training.adamw(_rate(args), steps=args.steps)
  run = gm.training.Run(
    folder,
    _state(args, params, optimizer),
    _batches(args, examples, tokenizer, shuffle=True),
    steps=args.steps,
    save_every=args.save_every,
    config=_config(args, len(examples)),
  )
  loss = gm.losses.NextToken(model.clone(remat=args.remat))
  step = gm.training.make_step(loss, optimizer, accumulate=args.accumulate)
  evaluate = gm.training.make_eval(loss)
  tests = _batches(args, held_out, tokenizer, epochs=1) if held_out else None
  with run:
    for batch in run:
      run.state, metrics = step(run.state, batch)
      run.log(metrics)
      if tests and (run.step % args.save_every == 0 or run.step == args.steps):
        run.log({'held_out_loss': evaluate(run.state, tests)})
  params = gm.training.model_params(run.state)
  if held_out:
    _test(model, params, tokenizer, held_out, run)
  if args.full:
    gm.ckpts.save_hf(target, model=model, params=params, tokenizer=tokenizer)
  else:
    gm.ckpts.save_adapter(target, model=model, params=params)
  print(target)


def _state(
  args: argparse.Namespace, params: Any, optimizer: Any
) -> gm.training.TrainState:
  """Adapters to train, or the weights of the text part, in float32."""
  if not args.full:
    key = jax.random.key(args.seed)
    lora = peft.init_lora(params, rank=args.rank, rng=key, targets=_TARGETS)
    params = peft.merge_params(params, lora)
  return gm.training.init_state(
    params,
    optimizer,
    trainable=gm.training.TEXT_PARAMS if args.full else 'lora',
    master_dtype='float32',
    rng=args.seed,
  )


def _batches(
  args: argparse.Namespace,
  examples: Examples,
  tokenizer: gm.text.Tokenizer,
  *,
  shuffle: bool = False,
  epochs: int | None = None,
) -> gm.data.Batches:
  return gm.data.Batches(
    examples,
    batch_size=args.batch_size,
    transforms=gm.data.ChatTask(
      tokenizer=tokenizer, max_length=None if args.pack else args.length
    ),
    shuffle=shuffle,
    seed=args.seed,
    epochs=epochs,
    pack=args.length if args.pack else None,
    drop_remainder=epochs is None,
  )


def _test(
  model: gm.nn.Transformer,
  params: Any,
  tokenizer: gm.text.Tokenizer,
  held_out: Examples,
  run: gm.training.Run,
) -> None:
  """Prints how good the model is on what it was not trained on."""
  sampler = gm.text.Sampler(
    model=model, params=params, tokenizer=tokenizer, max_out_length=256
  )
  answers = gm.training.exact_answers(sampler, held_out[:_MOST_ANSWERS])
  losses = [r['held_out_loss'] for r in run.rows if 'held_out_loss' in r]
  print(
    f'held-out loss {losses[-1]:.4f}, '
    f'{answers.right} of {answers.count} answers exactly right'
  )


def _rate(args: argparse.Namespace) -> float:
  if args.learning_rate is not None:
    return args.learning_rate
  return _RATES['full' if args.full else 'lora']


def _config(args: argparse.Namespace, examples: int) -> dict[str, Any]:
  """What makes this run what it is."""
  names = 'model', 'full', 'quantize', 'steps', 'batch_size', 'length', 'pack'
  return {
    **{name: getattr(args, name) for name in (*names, 'accumulate', 'seed')},
    'learning_rate': _rate(args),
    'rank': None if args.full else args.rank,
    'data': f'{examples} of {pathlib.Path(args.data).name}',
  }
