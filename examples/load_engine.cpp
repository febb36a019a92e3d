// Load an engine that `tofe-export trt` built, run it once, and print the best class of every picture.
//
//     g++ -std=c++17 -O2 load_engine.cpp -o load_engine -I/usr/local/cuda/include -L/usr/local/cuda/lib64 -lnvinfer -lcudart
//     ./load_engine tofe_bundle/engines/NAME.<gpu>.<tensorrt>.plan images.raw
//
// images.raw holds what the engine's input `images` takes and nothing else: float32 (B, 3, H, W), preprocessed,
// or uint8 (B, H, W, 3) frames where the bundle was exported with --input uint8. Python writes both:
//
//     from tofe_export.bundle import Bundle
//     from tofe_export.inputs import prepare
//     from tofe_export.preprocess import load_image
//     manifest = Bundle.open("tofe_bundle").manifest
//     prepare(load_image("cat.jpg"), manifest.preprocessing, frames=manifest.model.takes_frames).tofile("images.raw")
//
// TensorRT 8.6 to 11.x. The sidecar, NAME.json beside NAME.plan, is looked at before TensorRT sees the plan: its
// schema, the plan's size, and the TensorRT that built it. Its values are found by a plain search for `"key":`;
// the keys used here occur once in it. Its sha256 is not checked: for a plan that has travelled, compare
// `sha256sum NAME.plan` with the sidecar's `plan_sha256`.
//
// Exit codes: 0 ok, 2 usage, 3 the input does not fit, 4 plan or sidecar are damaged or belong to another
// TensorRT, 5 CUDA or TensorRT fails.

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace {

constexpr int kNewestSchema = 1;
constexpr int kUsage = 2, kBadInput = 3, kBadPlan = 4, kBackend = 5;

struct Failure : std::runtime_error {
    Failure(int exitCode, std::string const& text) : std::runtime_error(text), code(exitCode) {}
    int code;
};

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, nvinfer1::AsciiChar const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", text);
    }
};

void check(cudaError_t status, char const* what) {
    if (status != cudaSuccess) throw Failure(kBackend, std::string(what) + ": " + cudaGetErrorString(status));
}

std::vector<char> readFile(std::string const& path, int code) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Failure(code, path + ": expected a file that can be read");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// ---- the sidecar

// The text behind `"key":`, up to the next comma or brace; strings without their quotes.
std::string valueOf(std::string const& json, std::string const& key) {
    auto at = json.find('"' + key + '"');
    at = at == std::string::npos ? at : json.find_first_not_of(" \t\r\n", at + key.size() + 2);
    if (at == std::string::npos || json[at] != ':') throw Failure(kBadPlan, "the sidecar has no \"" + key + '"');
    at = json.find_first_not_of(" \t\r\n", at + 1);
    if (at == std::string::npos) throw Failure(kBadPlan, "the sidecar ends after \"" + key + '"');
    if (json[at] == '"') return json.substr(at + 1, json.find('"', at + 1) - at - 1);
    std::string value = json.substr(at, json.find_first_of(",}\r\n", at) - at);
    while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back()))) value.pop_back();
    return value;
}

struct Version {
    int major = 0, minor = 0, patch = 0;
    bool operator==(Version const& other) const {
        return major == other.major && minor == other.minor && patch == other.patch;
    }
    std::string text() const {
        return std::to_string(major) + '.' + std::to_string(minor) + '.' + std::to_string(patch);
    }
};

Version parseVersion(std::string const& text) {
    Version v;
    if (std::sscanf(text.c_str(), "%d.%d.%d", &v.major, &v.minor, &v.patch) < 2)
        throw Failure(kBadPlan, "expected a TensorRT version in the sidecar, found '" + text + "'");
    return v;
}

// Of the library that is loaded, which may be another than the headers'.
Version libraryVersion() {
    int const number = getInferLibVersion();
    int const unit = number >= 100000 ? 10000 : 1000;  // 8.6.1 is 8601, 10.3.0 is 100300
    return {number / unit, number % unit / 100, number % 100};
}

// Returns whether the plan carries its own runtime (--version-compatible).
bool checkSidecar(std::string const& planPath, std::size_t planBytes) {
    std::string const path = planPath.substr(0, planPath.rfind('.')) + ".json";
    std::vector<char> const bytes = readFile(path, kBadPlan);
    std::string const json(bytes.begin(), bytes.end());
    if (std::atoi(valueOf(json, "schema_version").c_str()) > kNewestSchema)
        throw Failure(kBadPlan, path + ": written by a newer tofe-export than this program knows");
    std::string const expected = valueOf(json, "plan_bytes");
    if (expected != std::to_string(planBytes))
        throw Failure(kBadPlan, planPath + ": expected " + expected + " bytes, found " + std::to_string(planBytes) +
                                    ": copied incompletely? Build again: tofe-export trt --force");
    Version const built = parseVersion(valueOf(json, "tensorrt")), here = libraryVersion();
    bool const compatible = valueOf(json, "version_compatible") == "true";
    if (!compatible && !(built == here))
        throw Failure(kBadPlan, planPath + ": built by TensorRT " + built.text() + ", here is " + here.text() +
                                    ": build on this device: tofe-export trt");
    return compatible;
}

// ---- tensors

std::size_t bytesPerElement(nvinfer1::DataType type) {
    switch (type) {
    case nvinfer1::DataType::kFLOAT:
    case nvinfer1::DataType::kINT32: return 4;
    case nvinfer1::DataType::kHALF: return 2;
    case nvinfer1::DataType::kINT8:
    case nvinfer1::DataType::kUINT8:
    case nvinfer1::DataType::kBOOL: return 1;
#if NV_TENSORRT_MAJOR >= 10
    case nvinfer1::DataType::kINT64: return 8;
    case nvinfer1::DataType::kBF16: return 2;
#endif
    default: throw Failure(kBadPlan, "a tensor has a type that this program does not handle");
    }
}

std::size_t elements(nvinfer1::Dims const& shape, int first = 0) {
    std::size_t count = 1;
    for (int i = first; i < shape.nbDims; ++i) count *= static_cast<std::size_t>(shape.d[i]);
    return count;
}

class DeviceMemory {
public:
    explicit DeviceMemory(std::size_t size) { check(cudaMalloc(&address_, size), "allocating device memory"); }
    ~DeviceMemory() { cudaFree(address_); }
    DeviceMemory(DeviceMemory const&) = delete;
    DeviceMemory& operator=(DeviceMemory const&) = delete;
    void* get() const { return address_; }

private:
    void* address_ = nullptr;
};

// The names of the one input and the one output of a product engine; a probe has more.
void findTensors(nvinfer1::ICudaEngine const& engine, std::string& input, std::string& output) {
    for (int i = 0; i < engine.getNbIOTensors(); ++i) {
        std::string const name = engine.getIOTensorName(i);
        bool const isInput = engine.getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT;
        std::string& place = isInput ? input : output;
        if (!place.empty()) throw Failure(kBadPlan, "expected one input and one output, found more: this is a probe");
        place = name;
    }
    if (input.empty() || output.empty()) throw Failure(kBadPlan, "expected one input and one output, found fewer");
    if (engine.getTensorDataType(output.c_str()) != nvinfer1::DataType::kFLOAT)
        throw Failure(kBadPlan, "expected a float32 output");
}

// The input's shape with the batch that the file holds.
nvinfer1::Dims inputShape(nvinfer1::ICudaEngine const& engine, std::string const& input, std::size_t fileBytes) {
    nvinfer1::Dims shape = engine.getTensorShape(input.c_str());
    std::size_t const image = elements(shape, 1) * bytesPerElement(engine.getTensorDataType(input.c_str()));
    if (fileBytes == 0 || fileBytes % image != 0)
        throw Failure(kBadInput, "expected whole pictures of " + std::to_string(image) + " bytes, found " +
                                     std::to_string(fileBytes) + " bytes");
    auto const batch = static_cast<std::int64_t>(fileBytes / image);
    if (shape.d[0] != -1 && shape.d[0] != batch)
        throw Failure(kBadInput, "expected " + std::to_string(shape.d[0]) + " pictures, found " + std::to_string(batch));
    shape.d[0] = static_cast<std::remove_reference_t<decltype(shape.d[0])>>(batch);  // int32 in 8.6, int64 in 10.x
    return shape;
}

void printBest(std::vector<float> const& values, std::size_t pictures) {
    std::size_t const classes = values.size() / pictures;
    for (std::size_t i = 0; i < pictures; ++i) {
        auto const row = values.begin() + static_cast<std::ptrdiff_t>(i * classes);
        auto const best = std::max_element(row, row + static_cast<std::ptrdiff_t>(classes));
        std::printf("picture %zu: class %td, %g\n", i, best - row, *best);
    }
}

// ---- the run

void run(std::string const& planPath, std::string const& inputPath) {
    std::vector<char> const plan = readFile(planPath, kBadPlan);
    bool const carriesRuntime = checkSidecar(planPath, plan.size());
    std::vector<char> const images = readFile(inputPath, kBadInput);

    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
    if (!runtime) throw Failure(kBackend, "TensorRT makes no runtime: see its lines above");
    if (carriesRuntime) runtime->setEngineHostCodeAllowed(true);  // code inside the plan: only from where you trust
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) throw Failure(kBadPlan, "TensorRT refuses the plan: see its lines above");
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    if (!context) throw Failure(kBackend, "TensorRT cannot prepare the engine: see its lines above");

    std::string input, output;
    findTensors(*engine, input, output);
    nvinfer1::Dims const shape = inputShape(*engine, input, images.size());
    if (!context->setInputShape(input.c_str(), shape))
        throw Failure(kBadInput, "the engine's profile does not hold this batch: see TensorRT's lines above");
    std::vector<float> answer(elements(context->getTensorShape(output.c_str())));

    DeviceMemory const in(images.size()), out(answer.size() * sizeof(float));
    if (!context->setTensorAddress(input.c_str(), in.get()) || !context->setTensorAddress(output.c_str(), out.get()))
        throw Failure(kBackend, "TensorRT takes no memory for its tensors");
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
    check(cudaMemcpyAsync(in.get(), images.data(), images.size(), cudaMemcpyHostToDevice, stream), "copying in");
    if (!context->enqueueV3(stream)) throw Failure(kBackend, "TensorRT could not run: see its lines above");
    check(cudaMemcpyAsync(answer.data(), out.get(), answer.size() * sizeof(float), cudaMemcpyDeviceToHost, stream),
          "copying out");
    check(cudaStreamSynchronize(stream), "running");
    check(cudaStreamDestroy(stream), "giving the stream back");
    printBest(answer, static_cast<std::size_t>(shape.d[0]));
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) {
        std::fprintf(stderr, "usage: %s ENGINE.plan IMAGES.raw\n", arguments[0]);
        return kUsage;
    }
    try {
        run(arguments[1], arguments[2]);
    } catch (Failure const& failure) {
        std::fprintf(stderr, "error: %s\n", failure.what());
        return failure.code;
    }
    return 0;
}
