"""A simulated exchange, and the nodes that write its streams like real ones.

The modules, each of which imports only those above it, and nothing else of fasttail:

    constants, decimals, blocks   streams and layouts; amounts as integers; what the exchange hands on
    book, markets, accounts       orders and price levels; coins; users and their positions
    layouts                       lines of a block in each layout
    events                        what happens, as the text of each stream
    engine                        places, matches, cancels, triggers, liquidates and settles
    twaps, rare, traffic          what users do
    prices, hyperliquidity,       what happens without users
    lifecycle, ledger
    chain                         blocks from a seed: `Exchange`
    content                       the content of files as bytes: `generate`
    truth, info_server            what is true at any height; the stand-in for a node's info server
    files, faults, node           hour files, what goes wrong, and how fast: `run`
    prepared                      blocks made ahead: `prepare`, `replay`

Determinism
    Every byte of every event depends only on `ExchangeOptions`, so the layouts and the nodes of one chain
    hold the same events, and `Truth` can make the chain again. Only a run at full speed that is also *live*
    (see `NodeOptions`) takes its block times from the clock.
"""

from fasttail.tools.exchange.blocks import Block
from fasttail.tools.exchange.chain import CHILDREN_SHARE, Exchange, ExchangeOptions
from fasttail.tools.exchange.constants import LAYOUTS, STREAMS, SynthError
from fasttail.tools.exchange.content import block_lines, generate
from fasttail.tools.exchange.layouts import folder_name, text_time
from fasttail.tools.exchange.node import NodeOptions, Summary, run
from fasttail.tools.exchange.prepared import prepare, replay
from fasttail.tools.exchange.truth import Truth, read_truth

__all__ = [
    "CHILDREN_SHARE",
    "LAYOUTS",
    "STREAMS",
    "Block",
    "Exchange",
    "ExchangeOptions",
    "NodeOptions",
    "Summary",
    "SynthError",
    "Truth",
    "block_lines",
    "folder_name",
    "generate",
    "prepare",
    "read_truth",
    "replay",
    "run",
    "text_time",
]
