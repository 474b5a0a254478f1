#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "block.h"
#include "cublas_v2.h"
#include "cuda_runtime.h"
#include "runtime/dtype.h"

namespace emulator {
namespace {

std::mutex g_one_launch;

// Device memory: an arena that host code cannot touch, so that a host access ends the program as it would
// with a GPU. Nothing is given back: the program's own allocator keeps what it has.
constexpr size_t kArena = size_t{1} << 36, kAlign = 4096;

class Arena {
 public:
  Arena() {
    void* at = mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    base_ = at == MAP_FAILED ? nullptr : static_cast<char*>(at);
    const char* guard = std::getenv("WUNENG_EMULATOR_GUARD");
    guards_ = !guard || std::strcmp(guard, "0") != 0;
  }
  void* allocate(size_t bytes) {
    const size_t size = (bytes + kAlign - 1) / kAlign * kAlign;
    if (!base_ || used_ + size > kArena) return nullptr;
    char* at = base_ + used_;
    used_ += size;
    const Open open(*this);
    std::memset(at, 0xff, size);
    return at;
  }

  // While it lives (WUNENG_EMULATOR_GUARD=0: from the first on, which is faster), the host may touch device
  // memory: kernels and copies.
  class Open {
   public:
    explicit Open(Arena& arena) : arena_(arena) {
      if (arena_.open_++ == 0) arena_.protect(PROT_READ | PROT_WRITE);
    }
    ~Open() {
      if (--arena_.open_ == 0) arena_.protect(PROT_NONE);
    }
    Open(const Open&) = delete;

   private:
    Arena& arena_;
  };

 private:
  void protect(int how) {
    if (guards_ || how != PROT_NONE) mprotect(base_, used_, how);
  }
  char* base_ = nullptr;
  size_t used_ = 0;
  int open_ = 0;
  bool guards_ = true;
};

Arena& arena() {
  static Arena* const one = new Arena;  // outlives every tensor
  return *one;
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  catch_up_kernels();
  const std::lock_guard lock(g_one_launch);
  const Arena::Open open(arena());
  blockDim = block, gridDim = grid;
  g_block.body = &body;
  g_block.start(size_t{block.x} * block.y * block.z, block, shared_bytes);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        g_block.run_until_ended();
      }
}

}  // namespace emulator

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = emulator::arena().allocate(bytes);
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  std::snprintf(text, size, "%04x:00:%02x.0", std::getenv("WUNENG_EMULATOR_GPU_PER_RANK") ? getpid() : 0,
                device);
  return cudaSuccess;
}

cudaError_t cudaFree(void*) { return cudaSuccess; }

namespace {

// Page-locked memory: filled as a GPU's, so that what no copy has reached yet is seen.
std::map<const char*, size_t> g_locked;  // sizes, by where they begin

bool is_locked(const void* at) {
  auto after = g_locked.upper_bound(static_cast<const char*>(at));
  if (after == g_locked.begin()) return false;
  --after;
  return static_cast<const char*>(at) < after->first + after->second;
}

}  // namespace

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  std::memset(*memory, 0xff, bytes);
  g_locked[static_cast<char*>(*memory)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  g_locked.erase(static_cast<char*>(memory));
  std::free(memory);
  return cudaSuccess;
}

// Beside the host where its side is page-locked, else done when the call returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  const auto copy = [=] {
    const emulator::Arena::Open open(emulator::arena());
    std::memmove(to, from, bytes);
  };
  if (stream && (is_locked(to) || is_locked(from))) return emulator::put(stream, copy), cudaSuccess;
  emulator::catch_up(stream);
  copy();
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  emulator::catch_up(stream);
  const emulator::Arena::Open open(emulator::arena());
  std::memset(at, value, bytes);
  return cudaSuccess;
}

namespace {

float element(const void* x, cudaDataType_t type, int64_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(x)[i];
  return __int_as_float(static_cast<const uint16_t*>(x)[i] << 16);
}

// One column-major product, each sum in double and rounded once.
void product(cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, float alpha, const void* a,
             cudaDataType_t a_type, int lda, const void* b, cudaDataType_t b_type, int ldb, float beta,
             void* c, cudaDataType_t c_type, int ldc) {
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < m; ++i) {
      double sum = 0;
      for (int l = 0; l < k; ++l)
        sum += double(element(a, a_type, ta == CUBLAS_OP_N ? i + int64_t{l} * lda : l + int64_t{i} * lda)) *
               element(b, b_type, tb == CUBLAS_OP_N ? l + int64_t{j} * ldb : j + int64_t{l} * ldb);
      const int64_t at = i + int64_t{j} * ldc;
      const float out =
          static_cast<float>(alpha * sum + (beta == 0 ? 0.0 : double(beta) * element(c, c_type, at)));
      if (c_type == CUDA_R_32F)
        static_cast<float*>(c)[at] = out;
      else
        static_cast<wuneng::bf16*>(c)[at] = wuneng::bf16(out);
    }
}

}  // namespace

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t ta, cublasOperation_t tb, int m,
                                          int n, int k, const void* alpha, const void* a,
                                          cudaDataType_t a_type, int lda, long long a_stride, const void* b,
                                          cudaDataType_t b_type, int ldb, long long b_stride,
                                          const void* beta, void* c, cudaDataType_t c_type, int ldc,
                                          long long c_stride, int batch, cublasComputeType_t,
                                          cublasGemmAlgo_t) {
  if ((c_type != CUDA_R_32F && c_type != a_type) || a_type != b_type ||
      lda < std::max(1, ta == CUBLAS_OP_N ? m : k) || ldb < std::max(1, tb == CUBLAS_OP_N ? k : n) ||
      ldc < std::max(1, m))
    return CUBLAS_STATUS_INVALID_VALUE;
  emulator::catch_up_kernels();
  const emulator::Arena::Open open(emulator::arena());
  const auto at = [](auto* x, cudaDataType_t type, long long i) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(x)>>, const char, char>;
    return static_cast<Byte*>(x) + i * (type == CUDA_R_32F ? 4 : 2);
  };
  for (int i = 0; i < batch; ++i)
    product(ta, tb, m, n, k, *static_cast<const float*>(alpha), at(a, a_type, i * a_stride), a_type, lda,
            at(b, b_type, i * b_stride), b_type, ldb, *static_cast<const float*>(beta),
            at(c, c_type, i * c_stride), c_type, ldc);
  return CUBLAS_STATUS_SUCCESS;
}
