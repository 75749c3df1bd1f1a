"""Tokenizers, chat templates, sampling."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.text._chat_sampler import ChatSampler as ChatSampler
  from gemma.gm.text._drafts import DraftModel as DraftModel
  from gemma.gm.text._drafts import PromptLookup as PromptLookup
  from gemma.gm.text._gemma4_sampler import Gemma4Sampler as Gemma4Sampler
  from gemma.gm.text._grammar import Grammar as Grammar
  from gemma.gm.text._grammar import Matcher as Matcher
  from gemma.gm.text._grammar import compile_grammar as compile_grammar
  from gemma.gm.text._output import SamplerOutput as SamplerOutput
  from gemma.gm.text._output import Usage as Usage
  from gemma.gm.text._parts import ToolCall as ToolCall
  from gemma.gm.text._prefix_cache import PrefixCache as PrefixCache
  from gemma.gm.text._reply import Reply as Reply
  from gemma.gm.text._reply import parse_reply as parse_reply
  from gemma.gm.text._sampler import Sampler as Sampler
  from gemma.gm.text._sampling import Chain as Chain
  from gemma.gm.text._sampling import Greedy as Greedy
  from gemma.gm.text._sampling import LogitBias as LogitBias
  from gemma.gm.text._sampling import MinP as MinP
  from gemma.gm.text._sampling import Penalties as Penalties
  from gemma.gm.text._sampling import RandomSampling as RandomSampling
  from gemma.gm.text._sampling import SamplingMethod as SamplingMethod
  from gemma.gm.text._sampling import TopkSampling as TopkSampling
  from gemma.gm.text._sampling import TopPSampling as TopPSampling
  from gemma.gm.text._schema import JsonSchema as JsonSchema
  from gemma.gm.text._schema import Lark as Lark
  from gemma.gm.text._schema import Regex as Regex
  from gemma.gm.text._scoring import Score as Score
  from gemma.gm.text._special_tokens import SpecialTokens as SpecialTokens
  from gemma.gm.text._state import SamplingState as SamplingState
  from gemma.gm.text._template import encode_chat as encode_chat
  from gemma.gm.text._tokenizer import Gemma2Tokenizer as Gemma2Tokenizer
  from gemma.gm.text._tokenizer import Gemma3nTokenizer as Gemma3nTokenizer
  from gemma.gm.text._tokenizer import (
    Gemma3TinyTokenizer as Gemma3TinyTokenizer,
  )
  from gemma.gm.text._tokenizer import Gemma3Tokenizer as Gemma3Tokenizer
  from gemma.gm.text._tokenizer import Gemma4Tokenizer as Gemma4Tokenizer
  from gemma.gm.text._tokenizer import Tokenizer as Tokenizer
  from gemma.gm.text._turn import Prompt as Prompt
  from gemma.gm.text._turn import Response as Response
  from gemma.gm.text._untrusted import read_untrusted as read_untrusted
