import importlib

importlib.import_module("fasttail.parser.pool").past(8)
