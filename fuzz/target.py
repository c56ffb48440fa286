"""libFuzzer's entry into Python: every input goes through `parser_invariants.check`.

    LD_PRELOAD=libfuzzer.so python fuzz/target.py [libFuzzer's options] [folders]

The library (libFuzzer without its main function, and the address sanitizer's run time) is preloaded, so that
the extensions of FASTTAIL_BUILD=fuzz report their coverage to it. scripts/fuzz does all this.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback

import parser_invariants

CALLBACK = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def one_input(address: int | None, size: int) -> int:
    try:
        parser_invariants.check(ctypes.string_at(address or 0, size) if size else b"")
    except BaseException:  # libFuzzer keeps the input of a process that aborts
        traceback.print_exc()
        sys.stderr.flush()
        os.abort()
    return 0


def main() -> int:
    try:
        run = ctypes.PyDLL(None).LLVMFuzzerRunDriver
    except AttributeError:
        sys.exit("libFuzzer is not preloaded: use scripts/fuzz")
    arguments = [os.fsencode(each) for each in sys.argv]
    array = (ctypes.c_char_p * (len(arguments) + 1))(*arguments)
    pointer = ctypes.cast(array, ctypes.POINTER(ctypes.c_char_p))
    return int(run(ctypes.byref(ctypes.c_int(len(arguments))), ctypes.byref(pointer), CALLBACK(one_input)))


if __name__ == "__main__":
    sys.exit(main())
