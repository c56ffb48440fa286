"""Prints the total of race.pyx; with "racing", all threads add to the same number."""

import importlib
import sys

print(importlib.import_module("fasttail.parser.pool").total(5, sys.argv[1:] == ["racing"]))
