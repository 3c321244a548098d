"""Companion package of the course *Neural Network Outputs*.

Each chapter of the course has a subpackage of the same name: `course_utils.basics`, `course_utils.iris`, …
They load when they are first used, so `import course_utils` itself costs next to nothing.
"""

from importlib import import_module

__version__ = "0.1.0"
__all__ = [
    "advanced",
    "basics",
    "capstone",
    "checks",
    "data",
    "foundation",
    "homework",
    "interpretation",
    "iris",
    "optimization",
    "pitfalls",
]


def __getattr__(name: str):
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
