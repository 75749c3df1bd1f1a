"""Images: what encodes them, and where they are among the tokens."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.vision._expand import PLACEHOLDER as PLACEHOLDER
  from gemma.gm.vision._expand import ImageTokens as ImageTokens
  from gemma.gm.vision._expand import expand as expand
  from gemma.gm.vision._patches import patchify as patchify
  from gemma.gm.vision._siglip import SigLiPFromPatches as SigLiPFromPatches
  from gemma.gm.vision._siglip import siglip as siglip
  from gemma.gm.vision._vit import VisionExit as VisionExit
  from gemma.gm.vision._vit import ViTModel as ViTModel
