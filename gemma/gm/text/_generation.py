"""What `generation_config.json` says of tokens: ends, and what is never said.

Temperatures and the like are not taken from a file: `sampling=` says them.
"""

import dataclasses
import functools
import pathlib

from gemma.gm.ckpts import _fields
from gemma.gm.ckpts import _json_file

_NAMES = ('generation_config.json', 'config.json')  # The first that is there.
_token = _fields.integer(0, 2**24)
_tokens = _fields.list_of(_token, 2**18)
_NONE = _fields.NULL
_READ = {
  'eos_token_id': _token | _tokens | _NONE,
  'suppress_tokens': _tokens | _NONE,
}
# Others would change the text, and are refused if they are set.
_REFUSED = dict.fromkeys(
  (
    *('begin_suppress_tokens', 'forced_bos_token_id', 'forced_eos_token_id'),
    *('bad_words_ids', 'force_words_ids', 'sequence_bias', 'stop_strings'),
    *('guidance_scale', 'watermarking_config', 'forced_decoder_ids'),
  ),
  _NONE,
)
_IGNORED = dict.fromkeys(
  (
    # What samplers are told by their own arguments.
    *('do_sample', 'temperature', 'top_k', 'top_p', 'min_p', 'typical_p'),
    *('max_length', 'max_new_tokens', 'min_length', 'min_new_tokens'),
    *('num_beams', 'num_return_sequences', 'repetition_penalty', 'seed'),
    *('epsilon_cutoff', 'eta_cutoff', 'early_stopping', 'length_penalty'),
    *('no_repeat_ngram_size', 'encoder_no_repeat_ngram_size', 'max_time'),
    *('num_beam_groups', 'diversity_penalty', 'penalty_alpha', 'use_cache'),
    *('encoder_repetition_penalty', 'exponential_decay_length_penalty'),
    # What changes nothing.
    *('bos_token_id', 'pad_token_id', 'decoder_start_token_id'),
    *('_from_model_config', 'transformers_version', 'cache_implementation'),
    *('cache_config', 'return_legacy_cache', 'return_dict_in_generate'),
    *('output_attentions', 'output_hidden_states', 'output_logits'),
    *('output_scores', 'remove_invalid_values', 'renormalize_logits'),
    *('trust_remote_code', 'prefill_chunk_size', 'low_memory'),
    *('is_assistant', 'num_assistant_tokens', 'disable_compile'),
    *('assistant_confidence_threshold', 'num_assistant_tokens_schedule'),
    *('assistant_early_exit', 'assistant_lookbehind', 'target_lookbehind'),
    *('prompt_lookup_num_tokens', 'max_matching_ngram_size', 'token_healing'),
    *('compile_config', 'generation_kwargs', 'dola_layers', 'top_h'),
  ),
  _fields.ANYTHING,
)


@dataclasses.dataclass(frozen=True)
class Generation:
  """Roles of tokens, beside those of the vocabulary.

  Attributes:
    ends: End a text.
    suppressed: Are never sampled.
  """

  ends: tuple[int, ...] = ()
  suppressed: tuple[int, ...] = ()


@functools.lru_cache(maxsize=8)
def read(folder: pathlib.Path) -> Generation:
  """What the files of a folder say.

  Args:
    folder: A Hugging Face folder, or any other.

  Raises:
    ValueError: If a file has a value that is not supported.
  """
  for name in _NAMES:
    if (folder / name).exists():
      return _of(folder / name)
  return Generation()


def _of(file: pathlib.Path) -> Generation:
  values = _json_file.read_object(file)
  if file.name == 'config.json':  # Checked in whole by what reads weights.
    text = values.get('text_config')
    nested = text if isinstance(text, dict) else {}
    values = {
      key: values.get(key, nested.get(key)) for key in ('eos_token_id',)
    }
  schema = _fields.Schema(str(file), _READ, _REFUSED | _IGNORED)
  found = schema.check(values)
  ends = found.get('eos_token_id')
  ends = [ends] if isinstance(ends, int) else ends or []
  return Generation(tuple(ends), tuple(found.get('suppress_tokens') or ()))
