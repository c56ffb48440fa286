"""`fasttail` whose verify command reports progress twice a second."""

from __future__ import annotations

import sys

from fasttail import cli
from fasttail.tools.verify import command

command.PROGRESS_INTERVAL_S = 0.5
sys.exit(cli.main(sys.argv[1:]))
