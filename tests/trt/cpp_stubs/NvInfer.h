// STUB, for the tests of examples/load_engine.cpp only: the names that it uses, declared as TensorRT's C++ API
// documents them, and nothing behind them. It is no TensorRT and proves nothing about engines. Written from scratch.
// NV_TENSORRT_MAJOR and NV_TENSORRT_MINOR come from the compiler's command line.

#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;
typedef CUstream_st* cudaStream_t;

extern "C" std::int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : std::int32_t {
    kFLOAT = 0,
    kHALF = 1,
    kINT8 = 2,
    kINT32 = 3,
    kBOOL = 4,
    kUINT8 = 5,
    kFP8 = 6,
#if NV_TENSORRT_MAJOR >= 10
    kBF16 = 7,
    kINT64 = 8,
    kINT4 = 9,
#endif
};

enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

struct Dims {
    std::int32_t nbDims;
#if NV_TENSORRT_MAJOR >= 10
    std::int64_t d[8];
#else
    std::int32_t d[8];
#endif
};

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
public:
    virtual ~IExecutionContext() noexcept = default;
    bool setInputShape(char const* tensorName, Dims const& dims) noexcept;
    Dims getTensorShape(char const* tensorName) const noexcept;
    bool setTensorAddress(char const* tensorName, void* data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
#if NV_TENSORRT_MAJOR >= 10
    enum class Strategy : std::int32_t { kSTATIC = 0 };
    IExecutionContext* createExecutionContext(Strategy strategy = Strategy::kSTATIC) noexcept;
#else
    IExecutionContext* createExecutionContext() noexcept;
#endif
    Dims getTensorShape(char const* tensorName) const noexcept;
    DataType getTensorDataType(char const* tensorName) const noexcept;
    TensorIOMode getTensorIOMode(char const* tensorName) const noexcept;
    std::int32_t getNbIOTensors() const noexcept;
    char const* getIOTensorName(std::int32_t index) const noexcept;
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;
    void setEngineHostCodeAllowed(bool allowed) noexcept;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
