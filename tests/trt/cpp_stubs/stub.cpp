// STUB, for the tests of examples/load_engine.cpp only: an "engine" that adds up each picture's bytes per colour.
//
// It computes nothing that TensorRT would. It lets the loader be run up to its last line: uint8 frames (B, 2, 2, 3)
// in, float32 (B, 3) out, class c the sum of colour c. STUB_VERSION is what getInferLibVersion answers; a plan that
// begins with "REFUSE" is refused.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

namespace {

nvinfer1::Dims frames{4, {-1, 2, 2, 3}};
unsigned char* given;
float* asked;

bool isImages(char const* name) { return std::strcmp(name, "images") == 0; }

}  // namespace

std::int32_t getInferLibVersion() noexcept { return STUB_VERSION; }

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& logger) noexcept {
    logger.log(ILogger::Severity::kWARNING, "this is a STUB");
    return new IRuntime;
}

void IRuntime::setEngineHostCodeAllowed(bool) noexcept {}

ICudaEngine* IRuntime::deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    return size >= 6 && std::memcmp(blob, "REFUSE", 6) == 0 ? nullptr : new ICudaEngine;
}

#if NV_TENSORRT_MAJOR >= 10
IExecutionContext* ICudaEngine::createExecutionContext(Strategy) noexcept { return new IExecutionContext; }
#else
IExecutionContext* ICudaEngine::createExecutionContext() noexcept { return new IExecutionContext; }
#endif
Dims ICudaEngine::getTensorShape(char const*) const noexcept { return {4, {-1, 2, 2, 3}}; }
DataType ICudaEngine::getTensorDataType(char const* name) const noexcept {
    return isImages(name) ? DataType::kUINT8 : DataType::kFLOAT;
}
TensorIOMode ICudaEngine::getTensorIOMode(char const* name) const noexcept {
    return isImages(name) ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}
std::int32_t ICudaEngine::getNbIOTensors() const noexcept { return 2; }
char const* ICudaEngine::getIOTensorName(std::int32_t index) const noexcept { return index ? "logits" : "images"; }

bool IExecutionContext::setInputShape(char const*, Dims const& dims) noexcept {
    frames = dims;
    return dims.d[0] <= 4;
}
Dims IExecutionContext::getTensorShape(char const*) const noexcept { return {2, {frames.d[0], 3}}; }
bool IExecutionContext::setTensorAddress(char const* name, void* data) noexcept {
    if (isImages(name))
        given = static_cast<unsigned char*>(data);
    else
        asked = static_cast<float*>(data);
    return true;
}
bool IExecutionContext::enqueueV3(cudaStream_t) noexcept {
    for (int i = 0; i < frames.d[0] * 3; ++i) asked[i] = 0;
    for (int i = 0; i < frames.d[0] * 12; ++i) asked[i / 12 * 3 + i % 3] += given[i];
    return true;
}

}  // namespace nvinfer1

char const* cudaGetErrorString(cudaError_t) { return "STUB"; }
cudaError_t cudaFree(void* address) { return std::free(address), cudaSuccess; }
cudaError_t cudaMalloc(void** address, std::size_t size) { return *address = std::malloc(size), cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t count, cudaMemcpyKind, cudaStream_t) {
    return std::memcpy(to, from, count), cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned int) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
