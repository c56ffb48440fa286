"""libFuzzer's entry into Python: passes every input to `parser_invariants.check`.

    LD_PRELOAD=libfuzzer.so:libasan.so python fuzz/target.py [libFuzzer's options] [folders]

libFuzzer without its main function and the AddressSanitizer runtime are preloaded, so that the extensions of
FASTTAIL_BUILD=fuzz report their coverage to them. scripts/fuzz does all this.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback

import parser_invariants

PROBE_BYTES = 461
CALLBACK = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def test_one_input(address: int | None, size: int) -> int:
    try:
        parser_invariants.check(ctypes.string_at(address or 0, size) if size else b"")
    except BaseException:  # abort, because libFuzzer saves the input of a process that aborts
        traceback.print_exc()
        sys.stderr.flush()
        os.abort()
    return 0


def asan_guards_heap(library: ctypes.PyDLL) -> bool:
    """Return whether AddressSanitizer knows the bounds of the buffers that the parser gets."""
    poisoned = library.__asan_region_is_poisoned
    poisoned.restype = ctypes.c_void_p
    poisoned.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with parser_invariants.exact_address(bytes(PROBE_BYTES)) as begin:
        end = begin + PROBE_BYTES
        return (
            not poisoned(begin, PROBE_BYTES)
            and poisoned(begin - 1, 1) == begin - 1
            and poisoned(end, 1) == end
        )


def main() -> int:
    library = ctypes.PyDLL(None)
    try:
        run = library.LLVMFuzzerRunDriver
        guarded = asan_guards_heap(library)
    except AttributeError:
        sys.exit("libFuzzer and the address sanitizer are not preloaded: use scripts/fuzz")
    if not guarded:
        sys.exit("the address sanitizer does not watch the heap: does it stand behind libc?")
    arguments = [os.fsencode(argument) for argument in sys.argv]
    array = (ctypes.c_char_p * (len(arguments) + 1))(*arguments)
    pointer = ctypes.cast(array, ctypes.POINTER(ctypes.c_char_p))
    return int(
        run(ctypes.byref(ctypes.c_int(len(arguments))), ctypes.byref(pointer), CALLBACK(test_one_input))
    )


if __name__ == "__main__":
    sys.exit(main())
