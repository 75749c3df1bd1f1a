"""Names of the published package: they are here, or `migrating.md` has them."""

import pathlib

import pytest

from gemma import gm

DOCS = pathlib.Path(__file__).parent.parent / 'docs/migrating.md'
NAMES = {
  'text': """
    Tokenizer Gemma2Tokenizer Gemma3Tokenizer Gemma3nTokenizer Gemma4Tokenizer
    SpecialTokens Sampler ChatSampler Gemma4Sampler ToolSampler SamplingMethod
    Greedy RandomSampling TopkSampling TopPSampling""",
  'data': """
    Parquet ContrastiveTask Seq2SeqTask AddSeq2SeqFields DecodeBytes FormatText
    MapInts Pad Tokenize make_seq2seq_fields pad""",
  'losses': 'DpoLoss NpoLoss',
  'evals': 'SamplerEvaluator',
  'ckpts': """
    load_params save_params LoadCheckpoint SkipLoRA AnchoredPolicyLoader
    CheckpointPath""",
  'nn': """
    Gemma2_2B Gemma2_9B Gemma2_27B Gemma3_270M Gemma3_1B Gemma3_4B Gemma3_12B
    Gemma3_27B Gemma3n_E2B Gemma3n_E4B Gemma4_E2B Gemma4_E4B Gemma4_31B
    Gemma4_26B_A4B Transformer Output TransformerLike Cache LoRA
    QuantizationAwareWrapper IntWrapper AnchoredPolicy Einsum RMSNorm Embedder
    Attention Block FeedForward AttentionType SigLiPFromPatches
    gemma3n.Gemma3n_E2B gemma3n.Gemma3n_E4B
    config.TransformerConfig config.ModelInfo config.AttentionType
    config.QueryPreAttentionNormalisation config.GEMMA3_ATTENTION_PATTERN
    config.make_attention_layers_types""",
  'peft': """
    Interceptor ModuleInterceptor LoRADense LoRADenseAdapter LoRAEinsum
    LoRAEinsumAdapter LoRADenseGeneral LoRADenseGeneralAdapter split_params
    merge_params fuse_params unfuse_params QuantizationMethod quantize
    simulate_quantize get_axis_to_reduce_from_einsum_str SimulateQuantizedDense
    SimulateQuantizedEinsum IntDense IntEinsum""",
  'math': 'apply_rope count_consecutive',
  'typing': 'Params',
  'testing': 'DummyGemma DummyTokenizer use_hermetic_tokenizer',
}  # fmt: skip


@pytest.mark.parametrize('room', NAMES)
def test_every_name_is_here_or_in_the_docs(room):
  if room == 'evals':
    pytest.importorskip('kauldron')  # Its evaluator is a class of Kauldron's.
  docs = DOCS.read_text()
  for name in NAMES[room].split():
    thing = gm
    for part in (room, *name.split('.')):
      thing = getattr(thing, part, None)
    assert thing is not None or name in docs, f'gm.{room}.{name}'


def test_published_formats_have_values():
  assert gm.text.Gemma3Tokenizer.FORMAT.value == 'gemma3'
  assert gm.text.Gemma4Tokenizer.FORMAT.value == 'gemma4'


def test_runs():
  assert gm.math.count_consecutive([]) == ()
  assert gm.math.count_consecutive([3, 3, 1, 3]) == ((3, 2), (1, 1), (3, 1))
