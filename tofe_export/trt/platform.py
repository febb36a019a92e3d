"""Where engines are built and run: this TensorRT on this device."""

from __future__ import annotations

from dataclasses import dataclass

from tofe_export.trt.api import Trt
from tofe_export.trt.compat import Features, load
from tofe_export.trt.device import Device, this_device


@dataclass(frozen=True)
class Platform:
    """TensorRT, what it can do, and the device."""

    trt: Trt
    features: Features
    device: Device

    @classmethod
    def here(cls) -> Platform:
        """Load TensorRT and look at the GPU. Raises MissingBackend that names what is missing."""
        trt = load()
        from tofe_export.runtime.cuda import Cuda

        return cls(trt, Features.of(trt), this_device(Cuda()))

    def describe(self) -> str:
        """One line for people."""
        return f"TensorRT {self.features.text} on {self.device.describe()}"
