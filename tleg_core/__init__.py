"""Learngenes and the vision Transformers expanded from them.

The modules at this level need numpy only. Whatever needs torch lives in `tleg_core.training`. Nothing here knows of HTTP,
Redis or jobs.
"""

__version__ = "0.1.0"
