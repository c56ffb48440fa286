"""A synthetic node: the `node_order_statuses` folder of one, growing and rotating as a node's does.

`Synth` makes up orders and blocks from a seed, and `run` writes files of them. Each module imports only those
above it, and nothing else of fasttail:

    constants   the pace of blocks, defaults, the error
    layouts     a block, and its lines in each layout
    population  the coins, and the users that quote them
    orders      order statuses as text
    blocks      how many orders a block has, and when it comes
    files       the growing hour files
    node        blocks into files, at a pace

What the seed decides
    Every byte of every event depends on (seed, start, block size, style, shares) and on nothing else, so the
    three layouts of one seed hold the same orders. Only a *live* run (see `NodeOptions`) stamps its blocks
    with the real clock; its orders are still those of the seed, apart from `time` and `timestamp`.

What is made up
    The mix of statuses, coins, users and field values follows what genuine files show: about 60 % rejections
    that appear once, orders that open and are later canceled or filled under the same oid, a few triggers and
    parents with children. Prices do not wander: every coin keeps its range.
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
