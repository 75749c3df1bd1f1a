"""The same call on one device, eight, or a pod.

A preset says what is divided; a mesh, among which devices. Every name is
imported on first use.
"""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
  from gemma.gm.math._partition import AXES as AXES
  from gemma.gm.math._partition import MESH_AXES as MESH_AXES
  from gemma.gm.sharding._collectives import Collective as Collective
  from gemma.gm.sharding._collectives import collectives as collectives
  from gemma.gm.sharding._mesh import make_mesh as make_mesh
  from gemma.gm.sharding._mesh import mesh_of as mesh_of
  from gemma.gm.sharding._mesh import use_mesh as use_mesh
  from gemma.gm.sharding._processes import initialize as initialize
  from gemma.gm.sharding._rules import DATA as DATA
  from gemma.gm.sharding._rules import EXPERT as EXPERT
  from gemma.gm.sharding._rules import FSDP as FSDP
  from gemma.gm.sharding._rules import FSDP_TENSOR as FSDP_TENSOR
  from gemma.gm.sharding._rules import REPLICATED as REPLICATED
  from gemma.gm.sharding._rules import TENSOR as TENSOR
  from gemma.gm.sharding._rules import Rules as Rules
  from gemma.gm.sharding._show import Placement as Placement
  from gemma.gm.sharding._show import show as show
