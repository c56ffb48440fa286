import importlib
import os

print(importlib.import_module(f"fasttail.parser.{os.environ['MODULE']}").total(1000))
