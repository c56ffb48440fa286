import importlib

pool = importlib.import_module("fasttail.parser.pool")
try:
    pool.item(b"abc", 3)
except IndexError:
    print("checked")
