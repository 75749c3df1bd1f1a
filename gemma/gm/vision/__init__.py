"""Images: to pixels, to soft tokens, and to their place among the tokens."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.vision._expand import PLACEHOLDER as PLACEHOLDER
  from gemma.gm.vision._expand import ImageTokens as ImageTokens
  from gemma.gm.vision._expand import expand as expand
  from gemma.gm.vision._jpeg import recompress_jpeg as recompress_jpeg
  from gemma.gm.vision._pan_and_scan import PanAndScan as PanAndScan
  from gemma.gm.vision._pan_and_scan import pan_and_scan as pan_and_scan
  from gemma.gm.vision._patches import patchify as patchify
  from gemma.gm.vision._preprocess import normalize as normalize
  from gemma.gm.vision._preprocess import pixel_values as pixel_values
  from gemma.gm.vision._preprocess import preprocess as preprocess
  from gemma.gm.vision._read import ImageLike as ImageLike
  from gemma.gm.vision._read import read_image as read_image
  from gemma.gm.vision._resize import resize_image as resize_image
  from gemma.gm.vision._show import show_patches as show_patches
  from gemma.gm.vision._siglip import SigLiPFromPatches as SigLiPFromPatches
  from gemma.gm.vision._siglip import siglip as siglip
  from gemma.gm.vision._vit import VisionExit as VisionExit
  from gemma.gm.vision._vit import ViTModel as ViTModel
