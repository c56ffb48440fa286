"""`python -m fasttail`: the same as the command `fasttail`."""

import sys

from fasttail.cli import main

if __name__ == "__main__":
    sys.exit(main())
