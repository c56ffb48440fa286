"""Selects the build of the template path to use.

`order_status.pyx` is compiled once for each name in NAMES. At import, the best one that this processor supports is selected,
or the one that FASTTAIL_ISA names if it is supported.
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

NAMES = ("avx2", "sse2", "portable")     # best first
_name = None


def available() -> tuple:
    """Return the names of the builds that this processor can run, best first."""
    supported = {"avx2": ft_has_avx2(), "sse2": ft_has_sse2(), "portable": 1}
    return tuple(name for name in NAMES if supported[name])


def use(str name) -> None:
    """Select a build. Raise ValueError if the processor does not support it. Must not be called during a parse."""
    global active_parse_chunk, _name
    if name not in available():
        raise ValueError(f"instruction set {name!r}: expected one of {', '.join(available())} on this processor")
    capsule = import_module(f"fasttail.streams.order_status_{name}").__pyx_capi__["parse_chunk"]
    active_parse_chunk = <parse_chunk_t>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
    _name = name


def name() -> str:
    """Return the name of the selected build."""
    return _name


_requested = os.environ.get("FASTTAIL_ISA")
use(_requested if _requested in available() else available()[0])
