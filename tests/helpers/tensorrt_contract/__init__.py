"""Following TensorRT's objects through the text of a module: which attributes are touched, on which versions.

Values annotated with the names of `trt/api.py` are followed, and whatever comes out of them by calls whose
signatures the inventories hold. `if features.X`, and a guard that leaves the function, narrow a branch to the
versions whose `Features` say so. Nothing is executed.

What cannot be followed is a fault too: a value of TensorRT that goes into a parameter, an attribute, a result
or a container whose annotation does not say what it is would be lost, and with it every name that is
touched behind. So either the text says it, or the test that uses this fails and says where.

    words       kinds of values, as strings
    declared    what our own functions, classes and attributes say they take and give
    signatures  what TensorRT's own functions take
    flow        statements and expressions, one after the other
"""

from __future__ import annotations

from tensorrt_contract.flow import Contract

__all__ = ["Contract"]
