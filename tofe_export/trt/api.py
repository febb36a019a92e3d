"""Names for TensorRT's classes.

NVIDIA ships no type stubs, so for mypy everything of TensorRT is `Any`. These aliases say which class an
`Any` is. `tests/trt/test_api_contract.py` reads them: it follows every value that is annotated with one of
them, or comes out of one by a call, and checks each attribute that is touched against what TensorRT 8.6,
10.3, 10.13 and 11.4 really have, on the branches that run on that version. A value that an analysis of the
text cannot follow (a property that gives an object, say) needs an annotation; the test says where.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Trt: TypeAlias = Any  # the module `tensorrt`
Builder: TypeAlias = Any
BuilderConfig: TypeAlias = Any
Network: TypeAlias = Any
Layer: TypeAlias = Any
Tensor: TypeAlias = Any
Profile: TypeAlias = Any
TimingCache: TypeAlias = Any
HostMemory: TypeAlias = Any
Parser: TypeAlias = Any
ParserError: TypeAlias = Any
Runtime: TypeAlias = Any
Engine: TypeAlias = Any
Context: TypeAlias = Any
Inspector: TypeAlias = Any
Logger: TypeAlias = Any
Profiler: TypeAlias = Any
DataType: TypeAlias = Any  # a member of trt.DataType

CLASSES = {
    "Builder": "Builder",
    "BuilderConfig": "IBuilderConfig",
    "Network": "INetworkDefinition",
    "Layer": "ILayer",
    "Tensor": "ITensor",
    "Profile": "IOptimizationProfile",
    "TimingCache": "ITimingCache",
    "HostMemory": "IHostMemory",
    "Parser": "OnnxParser",
    "ParserError": "ParserError",
    "Runtime": "Runtime",
    "Engine": "ICudaEngine",
    "Context": "IExecutionContext",
    "Inspector": "EngineInspector",
    "Logger": "ILogger",
    "Profiler": "IProfiler",
    "DataType": "DataType",
}
