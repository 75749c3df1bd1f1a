"""Roles of messages, and the keys that each may have."""

from gemma.gm.text import _keys

# What roles are called in turns.
ROLES = {
  'system': 'system',
  'developer': 'system',
  'user': 'user',
  'assistant': 'model',
  'model': 'model',
  'tool': 'tool',
}
# Whether a turn of the model is trained: OpenAI, Axolotl, ms-swift.
TRAINED = ('weight', 'train', 'training', 'loss')
_IGNORED = (
  'id', 'uuid', 'message_id', 'parent_id', 'index', 'type', 'status', 'object',
  'created', 'created_at', 'timestamp', 'date', 'finish_reason', 'stop_reason',
  'usage', 'logprobs', 'annotations', 'cache_control', 'metadata', 'meta',
  'source', 'language', 'lang', 'score', 'rating', 'provider_specific_fields',
)  # fmt: skip
_AS_PART = "Put it into content as {'type': 'image', 'image': ...}."
_MEDIA = (
  'image', 'images', 'video', 'videos', 'audio', 'audios', 'file', 'files',
  'attachments', 'experimental_attachments',
)  # fmt: skip
_REFUSED = {
  **dict.fromkeys(_MEDIA, _AS_PART),
  'parts': 'Give them as content.',
  'function_call': 'Give it in tool_calls, a list of calls.',
  'refusal': 'Give it as content if the model is to say it.',
  **dict.fromkeys(
    ('thinking', 'thought', 'thoughts', 'reasoning_details'),
    'Give the text of a thought as reasoning_content.',
  ),
  **dict.fromkeys(
    ('train_detail', 'loss_mask', 'loss_scale', 'mask'),
    'A turn is trained as a whole or not: give weight 1 or 0.',
  ),
}
_OF_MODEL = ('reasoning_content', 'reasoning', 'tool_calls', 'tool_responses')
OF_ROLE = {
  'model': _keys.Keys(
    kind='a message of the model',
    read=('role', 'content', 'token_ids', *_OF_MODEL, *TRAINED),
    ignored=(*_IGNORED, 'model', 'name', 'tool_call_id'),
    refused=_REFUSED,
  ),
  'tool': _keys.Keys(
    kind='a message of a tool',
    read=('role', 'content', 'name', 'tool_call_id', *TRAINED),
    ignored=(*_IGNORED, 'is_error'),
    refused={**_REFUSED, **dict.fromkeys(_OF_MODEL, 'The model has it.')},
  ),
  'other': _keys.Keys(
    kind='a message',
    read=('role', 'content', *TRAINED),
    ignored=(*_IGNORED, 'name', 'tool_call_id'),
    refused={**_REFUSED, **dict.fromkeys(_OF_MODEL, 'The model has it.')},
  ),
}
CALL = _keys.Keys(
  kind='a tool call',
  read=('type', 'function'),
  ignored=('id', 'index', 'call_id', 'status'),
)
FUNCTION = _keys.Keys(
  kind='the function of a tool call',
  read=('name', 'arguments'),
  ignored=('parsed_arguments', 'description', 'strict'),
)
RESPONSE = _keys.Keys(
  kind='one of tool_responses',
  read=('name', 'response'),
  ignored=('id', 'tool_call_id', 'call_id', 'type'),
)
