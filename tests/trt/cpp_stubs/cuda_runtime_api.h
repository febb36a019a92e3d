// STUB, for the tests of examples/load_engine.cpp only: the CUDA names that it uses. It is no CUDA. Written from scratch.

#pragma once

#include <cstddef>

struct CUstream_st;
typedef CUstream_st* cudaStream_t;

enum cudaError { cudaSuccess = 0, cudaErrorNoDevice = 100 };
typedef cudaError cudaError_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
constexpr unsigned int cudaStreamNonBlocking = 1;

extern "C" {
char const* cudaGetErrorString(cudaError_t error);
cudaError_t cudaFree(void* address);
cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t count, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaMalloc(void** address, std::size_t size);
}
