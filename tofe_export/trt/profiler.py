"""A listener for the times of an engine's layers."""

from __future__ import annotations

from collections.abc import Callable

from tofe_export.trt.api import Profiler, Trt


def profiler_of(trt: Trt, report: Callable[[str, float], None]) -> Profiler:
    """An instance of a class whose base is only known once TensorRT is loaded; `report` must not raise."""

    class Watch(trt.IProfiler):  # type: ignore[misc]  # a base that is Any
        """Hears every layer after every run."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 wants the base's own call

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT."""
            report(str(layer_name), float(ms))

    return Watch()
