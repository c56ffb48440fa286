"""Which build of the template path runs: chosen here and nowhere else.

`order_status.pyx` is compiled once for each name in NAMES. At import the best one that this processor has is taken, or the
one that FASTTAIL_ISA names if it has that.
"""
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer

import os
from importlib import import_module

cdef extern from *:
    """
    #if defined(__x86_64__)
    static int ft_has_sse2(void) { return 1; }
    static int ft_has_avx2(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    }
    #else
    static int ft_has_sse2(void) { return 0; }
    static int ft_has_avx2(void) { return 0; }
    #endif
    """
    int ft_has_sse2()
    int ft_has_avx2()

NAMES = ("avx2", "sse2", "portable")     # the best first
_name = None


def available() -> tuple:
    """The names that this processor can run, the best first."""
    supported = {"avx2": ft_has_avx2(), "sse2": ft_has_sse2(), "portable": 1}
    return tuple(name for name in NAMES if supported[name])


def use(str name) -> None:
    """Run this build from now on. Raises ValueError if the processor does not have it. Not while a parse runs."""
    global active_parse_chunk, _name
    if name not in available():
        raise ValueError(f"instruction set {name!r}: expected one of {', '.join(available())} on this processor")
    capsule = import_module(f"fasttail.streams.order_status_{name}").__pyx_capi__["parse_chunk"]
    active_parse_chunk = <parse_chunk_t>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
    _name = name


def name() -> str:
    """The build that runs."""
    return _name


_requested = os.environ.get("FASTTAIL_ISA")
use(_requested if _requested in available() else available()[0])
