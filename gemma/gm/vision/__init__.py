"""Images: from anything that shows one to the pixels that models take."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.vision._jpeg import recompress_jpeg as recompress_jpeg
  from gemma.gm.vision._pan_and_scan import PanAndScan as PanAndScan
  from gemma.gm.vision._pan_and_scan import pan_and_scan as pan_and_scan
  from gemma.gm.vision._preprocess import normalize as normalize
  from gemma.gm.vision._preprocess import pixel_values as pixel_values
  from gemma.gm.vision._preprocess import preprocess as preprocess
  from gemma.gm.vision._read import ImageLike as ImageLike
  from gemma.gm.vision._read import read_image as read_image
  from gemma.gm.vision._resize import resize_image as resize_image
  from gemma.gm.vision._show import show_patches as show_patches
