"""Models of Gemma 3n, under their published names: `gm.nn.gemma3n`."""

from gemma.gm.nn._presets import Gemma3n_E2B as Gemma3n_E2B
from gemma.gm.nn._presets import Gemma3n_E4B as Gemma3n_E4B
