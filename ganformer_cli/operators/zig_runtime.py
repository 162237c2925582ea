"""The parts of zig's C++ library that the native operators need, compiled as one source.

Left alone, zig compiles all of libc++ and libc++abi before its first link, for each kind of CPU anew: 50 s of CPU time,
twice what the operators take. They need exceptions, ``new``, strings and shared pointers, and no streams (see
``ops/errors.h``): 3 s.
"""

from __future__ import annotations

from pathlib import Path

from ganformer_cli.operators.toolchain import Compiler, TargetSystem

SOURCE = "zig_runtime.cpp"
LINKED = ("-lunwind",)  # which zig compiles by itself, in a second

#: Below zig's ``lib``. The first must stay the first: it defines what the others' headers would.
PARTS = (
    *(f"libcxx/src/{name}.cpp" for name in ("memory", "functional", "new_handler", "new_helpers", "optional")),
    *(f"libcxx/src/{name}.cpp" for name in ("stdexcept", "string")),
    *(f"libcxxabi/src/{name}.cpp" for name in ("abort_message", "cxa_aux_runtime", "cxa_default_handlers")),
    *(f"libcxxabi/src/{name}.cpp" for name in ("cxa_exception", "cxa_exception_storage", "cxa_guard", "cxa_handlers")),
    *(f"libcxxabi/src/{name}.cpp" for name in ("cxa_personality", "cxa_virtual", "fallback_malloc")),
    *(f"libcxxabi/src/{name}.cpp" for name in ("private_typeinfo", "stdlib_exception", "stdlib_new_delete")),
    *(f"libcxxabi/src/{name}.cpp" for name in ("stdlib_stdexcept", "stdlib_typeinfo")),
)
WINDOWS_PARTS = ("libcxx/src/chrono.cpp", "libcxx/src/support/win32/thread_win32.cpp")  # mutexes, and what they need

# As zig compiles them, and hidden: torch has a C++ library of its own in the same process.
FLAGS = (
    *("-std=c++23", "-O2", "-w", "-ffunction-sections", "-fdata-sections"),
    *("-fvisibility=hidden", "-fvisibility-inlines-hidden", "-fvisibility-global-new-delete=force-hidden"),
    *("-DNDEBUG", "-D_LIBCPP_BUILDING_LIBRARY", "-D_LIBCXXABI_BUILDING_LIBRARY", "-DLIBCXX_BUILDING_LIBCXXABI"),
    *("-D_LIBCPP_DISABLE_VISIBILITY_ANNOTATIONS", "-D_LIBCXXABI_DISABLE_VISIBILITY_ANNOTATIONS"),
    "-DLIBCXXABI_SILENT_TERMINATE",
)
LINUX_FLAGS = ("-fPIC", "-DHAVE___CXA_THREAD_ATEXIT_IMPL")  # the second: glibc has it
INCLUDED = (".", "libcxxabi/include", "libcxxabi/src", "libcxx/src", "libunwind/include")


def library_folder(compiler: Compiler) -> Path:
    """zig's ``lib``."""
    return Path(compiler.path).parent / "lib"


def parts_for(target: TargetSystem) -> tuple[str, ...]:
    """The parts for a system."""
    return (*PARTS, *WINDOWS_PARTS) if target.windows else PARTS


def knows_parts(compiler: Compiler, target: TargetSystem) -> bool:
    """Whether the parts are where they are looked for; another version of zig may have them elsewhere."""
    return all((library_folder(compiler) / part).is_file() for part in parts_for(target))


def source_text(target: TargetSystem) -> str:
    """The one source."""
    return "".join(f'#include "{part}"\n' for part in parts_for(target))


def compile_words(compiler: Compiler, target: TargetSystem) -> list[str]:
    """What compiles it, without the words for the target and the files."""
    folder = library_folder(compiler)
    flags = FLAGS if target.windows else (*FLAGS, *LINUX_FLAGS)
    return [*flags, f"-ffile-prefix-map={folder}=zig", *(f"-I{folder / name}" for name in INCLUDED)]
