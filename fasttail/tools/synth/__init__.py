"""A synthetic node, whose `node_order_statuses` folder grows and rotates like a real one.

`Synth` generates orders and blocks from a seed, and `run` writes them to files. Each module imports only
those above it, and nothing else of fasttail:

    constants   block rate, defaults, the error
    layouts     a block, and its lines in each layout
    population  coins, and the users that quote them
    orders      order statuses as text
    blocks      the size and the time of each block
    files       the growing hour files
    node        blocks written to files at a rate

Determinism
    Every byte of every event depends only on (seed, start, block size, style, shares), so the three layouts
    of one seed hold the same orders. Only a *live* run (see `NodeOptions`) stamps its blocks with the real
    clock; its orders are still those of the seed, apart from `time` and `timestamp`.

Realism
    The mix of statuses, coins, users and field values follows genuine files: about 60 % rejections that
    appear once, orders that open and are later canceled or filled under the same oid, a few triggers and
    parents with children. Each coin's prices stay in one range.
"""

from fasttail.tools.synth.blocks import Synth, generate, iter_blocks
from fasttail.tools.synth.constants import CHILDREN_SHARE, SynthError
from fasttail.tools.synth.layouts import LAYOUTS, Block, render, text_time
from fasttail.tools.synth.node import NodeOptions, Summary, run

__all__ = [
    "CHILDREN_SHARE",
    "LAYOUTS",
    "Block",
    "NodeOptions",
    "Summary",
    "Synth",
    "SynthError",
    "generate",
    "iter_blocks",
    "render",
    "run",
    "text_time",
]
