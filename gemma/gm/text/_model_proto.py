"""The format of SentencePiece model files, as far as it is used here.

Generated code, as `sentencepiece` has it, runs with the versions of protobuf of
one year alone. These classes come from a table and run with any. Fields that
the table lacks stay in a file as they are.

The numbers are those of `sentencepiece_model.proto`
(https://github.com/google/sentencepiece).
"""

from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory

_PACKAGE = 'gemma.sentencepiece'
_Field = descriptor_pb2.FieldDescriptorProto

# A field is `type name = number`; of an enum, with its default value behind.
_MESSAGES = {
  'Piece': ('string piece = 1', 'float score = 2', 'Type type = 3 NORMAL'),
  'Trainer': (
    *('Algorithm model_type = 3 UNIGRAM', 'int32 vocab_size = 4'),
    *('string[] user_defined_symbols = 31', 'bool byte_fallback = 35'),
    *('int32 unk_id = 40', 'int32 bos_id = 41 1', 'int32 eos_id = 42 2'),
    *('int32 pad_id = 43 -1', 'string bos_piece = 46', 'string eos_piece = 47'),
    'string pad_piece = 48',
  ),
  'Normalizer': (
    *('string name = 1', 'bool add_dummy_prefix = 3'),
    'bool remove_extra_whitespaces = 4',
  ),
  'Model': (
    *('Piece[] pieces = 1', 'Trainer trainer_spec = 2'),
    'Normalizer normalizer_spec = 3',
  ),
}
_ENUMS = {
  'Type': {
    **{'NORMAL': 1, 'UNKNOWN': 2, 'CONTROL': 3, 'USER_DEFINED': 4},
    **{'UNUSED': 5, 'BYTE': 6},
  },
  'Algorithm': {'UNIGRAM': 1, 'BPE': 2, 'WORD': 3, 'CHAR': 4},
}


def _file() -> descriptor_pb2.FileDescriptorProto:
  """The tables as protobuf has them."""
  file = descriptor_pb2.FileDescriptorProto(
    name=f'{_PACKAGE}.proto', package=_PACKAGE, syntax='proto2'
  )
  for name, values in _ENUMS.items():
    enum = file.enum_type.add(name=name)
    for value, number in values.items():
      enum.value.add(name=value, number=number)
  for name, lines in _MESSAGES.items():
    message = file.message_type.add(name=name)
    for line in lines:
      kind, field_name, _, tag, *default = line.split()
      field = message.field.add(name=field_name, number=int(tag))
      field.label = _Field.LABEL_OPTIONAL
      if kind.endswith('[]'):
        kind, field.label = kind[:-2], _Field.LABEL_REPEATED
      if kind in _MESSAGES or kind in _ENUMS:
        field.type_name = f'.{_PACKAGE}.{kind}'
        kind = 'message' if kind in _MESSAGES else 'enum'
      field.type = _Field.Type.Value(f'TYPE_{kind.upper()}')
      if default:
        (field.default_value,) = default
  return file


def _class(name: str) -> Any:
  message = _POOL.FindMessageTypeByName(f'{_PACKAGE}.{name}')
  return message_factory.GetMessageClass(message)


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())
Model = _class('Model')
TYPES = _ENUMS['Type']
BPE = _ENUMS['Algorithm']['BPE']
