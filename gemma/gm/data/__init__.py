"""Examples to batches: tasks, transforms, packing."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.data._arrays import pad as pad
  from gemma.gm.data._batches import Batches as Batches
  from gemma.gm.data._chat import ChatTask as ChatTask
  from gemma.gm.data._classification import (
    ClassificationTask as ClassificationTask,
  )
  from gemma.gm.data._contrastive import ContrastiveTask as ContrastiveTask
  from gemma.gm.data._elementwise import DecodeBytes as DecodeBytes
  from gemma.gm.data._elementwise import FormatText as FormatText
  from gemma.gm.data._elementwise import MapInts as MapInts
  from gemma.gm.data._elementwise import Pad as Pad
  from gemma.gm.data._elementwise import Tokenize as Tokenize
  from gemma.gm.data._fields import Seq2SeqFields as Seq2SeqFields
  from gemma.gm.data._fields import make_seq2seq_fields as make_seq2seq_fields
  from gemma.gm.data._next_token import NextTokenTask as NextTokenTask
  from gemma.gm.data._parquet import Parquet as Parquet
  from gemma.gm.data._preference import PreferenceTask as PreferenceTask
  from gemma.gm.data._read import read_examples as read_examples
  from gemma.gm.data._seq2seq import AddSeq2SeqFields as AddSeq2SeqFields
  from gemma.gm.data._seq2seq import Seq2SeqTask as Seq2SeqTask
  from gemma.gm.data._transform import Transform as Transform
