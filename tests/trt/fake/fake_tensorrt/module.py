"""The fake module itself: what `import tensorrt` gives."""

from __future__ import annotations

import types
from typing import Any

from fake_tensorrt import build, inventory, parse, run
from fake_tensorrt.cudart import FakeCudart
from fake_tensorrt.script import Script

BEHAVIOURS: tuple[type, ...] = (
    *(build.Builder, build.IBuilderConfig, parse.INetworkDefinition, parse.ILayer, parse.ITensor),
    *(parse.OnnxParser, parse.ParserError, build.IOptimizationProfile, build.ITimingCache),
    *(build.IHostMemory, build.ILogger, build.IProfiler, build.IProgressMonitor),
    *(run.Runtime, run.ICudaEngine, run.IExecutionContext, run.EngineInspector),
)


class FakeModule(types.ModuleType):
    """FAKE TensorRT of one version. `script` says what goes wrong, `built` counts the plans it made."""

    def __init__(self, version: str, cudart: FakeCudart, gpu: str) -> None:
        super().__init__("tensorrt", "FAKE: see tests/trt/fake")
        names = inventory.load(version)
        self.__version__: str = names["version"]
        self.version, self.cudart, self.gpu = version, cudart, gpu
        self.script = Script()
        self.built = 0
        self.kept: dict[str, Any] = {}  # the first logger of a process stays, as in TensorRT
        self._other = frozenset(names["other_classes"]) | frozenset(names["functions"])
        behaviours = {behaviour.__name__: behaviour for behaviour in BEHAVIOURS}
        for name, members in names["classes"].items():
            made = self._class(name, members, behaviours)
            if made is not None:
                setattr(self, name, made)

    def new(self, kind_name: str, /, **state: Any) -> Any:
        """An object of a class that only TensorRT itself makes."""
        kind = getattr(self, kind_name)
        made = object.__new__(kind)
        for key, value in state.items():
            object.__setattr__(made, f"_{key}", value)
        return made

    def log(self, severity: str, text: str) -> None:
        """Tell the logger; every line says FAKE."""
        logger = self.kept.get("logger")
        if logger is not None:
            logger.log(getattr(self.ILogger, severity), f"[FAKE TensorRT] {text}")

    def keep_logger(self, logger: Any) -> None:
        """The first one stays for good."""
        if not isinstance(logger, self.ILogger):
            raise TypeError(f"FAKE TensorRT expected an ILogger, found {logger!r}")
        self.kept.setdefault("logger", logger)

    def numbers(self) -> tuple[int, int, int]:
        """Major, minor, patch."""
        major, minor, patch, *_ = (int(part) for part in f"{self.__version__}.0".split("."))
        return major, minor, patch

    def _class(self, name: str, members: dict[str, str], behaviours: dict[str, type]) -> type | None:
        if name == "ILogger":
            severity = inventory.make_enum("Severity", members)
            values = {key: getattr(severity, key) for key, kind in members.items() if kind == "value"}
            made = inventory.make_class(name, dict.fromkeys(("log",), "method"), behaviours[name], self)
            for key, value in {**values, "Severity": severity}.items():
                setattr(made, key, value)
            return made
        if inventory.is_enum(members):
            return inventory.make_enum(name, members)
        if name in behaviours:
            return inventory.make_class(name, members, behaviours[name], self)
        return inventory.make_class(name, members, object, self)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._other:
            return inventory.Missing(name)
        raise AttributeError(f"FAKE TensorRT {self.__version__} has no {name!r}")
