// Products of float32 activations with stored weights, for CPUs. native.py compiles this file on
// first use and says what each function computes; mxfp4.py and attention.py hold the twins in JAX.
//
// A token reads 3.7 GB of the 20B's weights, so memory decides, and the rules are:
// - weights are decoded in registers and never written back;
// - 16 neighboring outputs form one vector, since the output dimension is innermost in memory;
// - each weight is decoded once, whether one token wants it (decode) or hundreds (prefill);
// - activations and sums stay float32: nothing is rounded that the weights' format does not round.
//
// Vectors are those of GCC and Clang (vector_size), so any CPU compiles this; AVX-512 has a table
// look-up of 16 floats in one instruction, others put the bits together.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kLanes = 16;   // floats of one vector
constexpr int64_t kBlock = 32;   // inputs of one MXFP4 block, and of one step of the loops below
constexpr int64_t kWide = 64;    // outputs of one step: four vectors, one cache line of MXFP4 bytes
constexpr int64_t kRows = 6;     // rows of one tile: 6 x 4 sums, 4 weights and 1 input fill 29 registers
constexpr int64_t kMostRows = 96;  // rows whose sums stay in the second cache beside the weights

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

template <typename Vector, typename T>
inline Vector Load(const T* from) {
  Vector v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline void Store(float* to, Floats v) { std::memcpy(to, &v, sizeof(v)); }

inline Words Widen(const uint8_t* from) {
#ifdef __AVX512F__  // one instruction, of which GCC 12 would make forty
  return (Words)_mm512_cvtepu8_epi32(Load<__m128i>(from));
#else
  return __builtin_convertvector(__builtin_convertvector(Load<Bytes>(from), Halves), Words);
#endif
}

// The number that the lowest four bits of each lane name. Higher bits may hold anything.
inline Floats NibbleValue(Words nibble) {
#ifdef __AVX512F__
  const __m512 table = _mm512_setr_ps(0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6);
  return (Floats)_mm512_permutexvar_ps((__m512i)nibble, table);
#else
  const Words m = nibble & 7;  // from 2 on, its bits are the float's exponent and mantissa
  const Words bits = m < 2 ? (m == 1 ? (Words{} + 0x3f000000u) : Words{}) : (m << 22) + (126u << 23);
  return (Floats)(bits | ((nibble & 8) << 28));
#endif
}

// 2^(byte - 127): the byte is a float's exponent, but for 0 (subnormal) and 255 (not a number).
inline Floats ScaleValue(Words byte) {
  const Words bits = byte == 0 ? (Words{} + 0x00400000u) : (byte << 23);
  return (Floats)(byte == 255 ? (Words{} + 0x7fc00000u) : bits);
}

// One expert's matrix [I, O] in MXFP4: blocks [J, 16, O] and scales [J, O].
struct Mxfp4 {
  static constexpr int64_t kStep = kBlock;
  const uint8_t* blocks;
  const uint8_t* scales;
  int64_t inputs, outputs;

  // y[V vectors] += x[32] times this block: one row, nothing but registers between.
  template <int V>
  inline void AddProduct(int64_t i, int64_t o, const float* x, float* y) const {
    const uint8_t* bytes = blocks + i / 2 * outputs + o;
    Floats even[V] = {}, odd[V] = {};
    for (int u = 0; u < kBlock / 2; ++u, bytes += outputs) {
      __builtin_prefetch(bytes + kBlock / 2 * outputs);  // the next block: rows lie far apart
      for (int v = 0; v < V; ++v) {
        const Words pair = Widen(bytes + v * kLanes);
        even[v] += NibbleValue(pair) * x[2 * u];
        odd[v] += NibbleValue(pair >> 4) * x[2 * u + 1];
      }
    }
    const uint8_t* scale = scales + i / kBlock * outputs + o;
    for (int v = 0; v < V; ++v) {
      const Floats sum = Load<Floats>(y + v * kLanes);
      Store(y + v * kLanes, sum + (even[v] + odd[v]) * ScaleValue(Widen(scale + v * kLanes)));
    }
  }

  // The weights of this block as floats, w[32][V vectors], for use by many rows.
  template <int V>
  inline void Decode(int64_t i, int64_t o, float* w) const {
    const uint8_t* bytes = blocks + i / 2 * outputs + o;
    Floats scale[V];
    for (int v = 0; v < V; ++v) {
      scale[v] = ScaleValue(Widen(scales + i / kBlock * outputs + o + v * kLanes));
    }
    for (int u = 0; u < kBlock / 2; ++u, bytes += outputs, w += 2 * V * kLanes) {
      __builtin_prefetch(bytes + kBlock / 2 * outputs);
      for (int v = 0; v < V; ++v) {
        const Words pair = Widen(bytes + v * kLanes);
        Store(w + v * kLanes, NibbleValue(pair) * scale[v]);
        Store(w + (V + v) * kLanes, NibbleValue(pair >> 4) * scale[v]);
      }
    }
  }
};

// A matrix [I, O] in bfloat16, the upper half of a float32.
struct Bf16 {
  // Rows read side by side for one token. With 32, as many as for many tokens, matrices whose rows
  // are a power of two apart throw each other out of the cache, and others run 40 % slower.
  static constexpr int64_t kStep = 8;
  static constexpr int64_t kAhead = 512;  // outputs: 1 KB of each row is on its way
  const uint16_t* weights;
  int64_t inputs, outputs;

  static inline Floats Value(const uint16_t* from) {
    return (Floats)(__builtin_convertvector(Load<Halves>(from), Words) << 16);
  }

  template <int V>
  inline void AddProduct(int64_t i, int64_t o, const float* x, float* y) const {
    const uint16_t* row = weights + i * outputs + o;
    Floats sum[2 * V] = {};
    for (int v = 0; v < V; ++v) sum[v] = Load<Floats>(y + v * kLanes);
    for (int k = 0; k < kStep; k += 2, row += 2 * outputs) {
      for (int ahead = kAhead; ahead < kAhead + V * kLanes; ahead += 32) {
        __builtin_prefetch(row + ahead);
        __builtin_prefetch(row + outputs + ahead);
      }
      for (int v = 0; v < V; ++v) {
        sum[v] += Value(row + v * kLanes) * x[k];
        sum[V + v] += Value(row + outputs + v * kLanes) * x[k + 1];
      }
    }
    for (int v = 0; v < V; ++v) Store(y + v * kLanes, sum[v] + sum[V + v]);
  }

  template <int V>
  inline void Decode(int64_t i, int64_t o, float* w) const {
    const uint16_t* row = weights + i * outputs + o;
    for (int k = 0; k < kBlock; ++k, row += outputs, w += V * kLanes) {
      for (int ahead = 0; ahead < 2; ++ahead) __builtin_prefetch(row + 2 * kWide + 32 * ahead, 0, 2);
      for (int v = 0; v < V; ++v) Store(w + v * kLanes, Value(row + v * kLanes));
    }
  }
};

// Rows that meet the same matrix: where their inputs are read and their outputs written.
struct Rows {
  const float* const* x;
  float* const* y;
  int64_t count;
};

// y[R rows][V vectors] += x[R rows][32] times w[32][V vectors]: the sums stay in registers.
template <int R, int V>
inline void AddTile(const float* const* x, float* const* y, int64_t i, int64_t o, const float* w) {
  Floats sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) sum[r][v] = Load<Floats>(y[r] + o + v * kLanes);
  }
  for (int k = 0; k < kBlock; ++k, w += V * kLanes) {
    for (int v = 0; v < V; ++v) {
      const Floats weight = Load<Floats>(w + v * kLanes);
      for (int r = 0; r < R; ++r) sum[r][v] += weight * x[r][i + k];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) Store(y[r] + o + v * kLanes, sum[r][v]);
  }
}

template <int V>
void AddTiles(Rows rows, int64_t i, int64_t o, const float* w) {
  int64_t r = 0;
  for (; r + kRows <= rows.count; r += kRows) AddTile<kRows, V>(rows.x + r, rows.y + r, i, o, w);
  switch (rows.count - r) {
    case 5: return AddTile<5, V>(rows.x + r, rows.y + r, i, o, w);
    case 4: return AddTile<4, V>(rows.x + r, rows.y + r, i, o, w);
    case 3: return AddTile<3, V>(rows.x + r, rows.y + r, i, o, w);
    case 2: return AddTile<2, V>(rows.x + r, rows.y + r, i, o, w);
    case 1: return AddTile<1, V>(rows.x + r, rows.y + r, i, o, w);
  }
}

template <int V, typename Matrix>
inline void Step(const Matrix& matrix, Rows rows, int64_t i, int64_t o) {
  if (rows.count == 1) return matrix.template AddProduct<V>(i, o, rows.x[0] + i, rows.y[0] + o);
  alignas(64) float w[kBlock * V * kLanes];
  matrix.template Decode<V>(i, o, w);
  AddTiles<V>(rows, i, o, w);
}

// Outputs begin to end of all rows. Inputs are the outer loop, so that memory is read in order.
template <typename Matrix>
void Multiply(const Matrix& matrix, Rows rows, int64_t begin, int64_t end) {
  for (int64_t r = 0; r < rows.count; ++r) std::fill(rows.y[r] + begin, rows.y[r] + end, 0.0f);
  for (int64_t first = 0; first < rows.count; first += kMostRows) {
    const Rows part{rows.x + first, rows.y + first, std::min(kMostRows, rows.count - first)};
    const int64_t step = part.count == 1 ? Matrix::kStep : kBlock;
    for (int64_t i = 0; i < matrix.inputs; i += step) {
      int64_t o = begin;
      for (; o + kWide <= end; o += kWide) Step<kWide / kLanes>(matrix, part, i, o);
      for (; o < end; o += kLanes) Step<1>(matrix, part, i, o);
    }
  }
}

// A matrix and its rows, cut into pieces of `width` outputs.
template <typename Matrix>
struct Job {
  Matrix matrix;
  Rows rows;
  int64_t width, pieces;
};

template <typename Matrix>
Job<Matrix> MakeJob(const Matrix& matrix, Rows rows, int64_t threads) {
  const int64_t most = rows.count == 1 ? 8192 : 512;  // their sums stay in the first cache
  const int64_t fair = (matrix.outputs / threads + kWide - 1) / kWide * kWide;
  const int64_t width = std::max(kWide, std::min(most, fair));
  return {matrix, rows, width, (matrix.outputs + width - 1) / width};
}

// Whoever has time takes the next piece. The caller waits for the pieces, not for the threads: one
// that wakes up late finds nothing left, and only the shared counters have to outlive it.
template <typename Matrix>
void Run(ffi::ThreadPool pool, const std::vector<Job<Matrix>>& jobs, int64_t threads) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    int64_t total = 0;
    const std::vector<Job<Matrix>>* jobs;
  };
  auto shared = std::make_shared<Shared>();
  shared->jobs = &jobs;
  for (const auto& job : jobs) shared->total += job.pieces;
  auto work = [shared] {
    for (int64_t piece; (piece = shared->next.fetch_add(1)) < shared->total;) {
      auto job = shared->jobs->begin();
      for (; piece >= job->pieces; ++job) piece -= job->pieces;
      const int64_t begin = piece * job->width;
      Multiply(job->matrix, job->rows, begin, std::min(begin + job->width, job->matrix.outputs));
      shared->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t helper = 1; helper < std::min(threads, shared->total); ++helper) pool.Schedule(decltype(work)(work));
  work();
  while (shared->done.load(std::memory_order_acquire) < shared->total) std::this_thread::yield();
}

// y[T, X, O] = x[T, I] times the matrices expert[T, X]; all rows of an expert are done together.
ffi::Error Mxfp4Products(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> expert,
                         ffi::Buffer<ffi::U8> blocks, ffi::Buffer<ffi::U8> scales,
                         ffi::ResultBuffer<ffi::F32> y) {
  const int64_t E = blocks.dimensions()[0], J = blocks.dimensions()[1], O = blocks.dimensions()[3];
  const int64_t T = expert.dimensions()[0], X = expert.dimensions()[1], I = J * kBlock;
  std::vector<std::vector<const float*>> from(E);
  std::vector<std::vector<float*>> to(E);
  for (int64_t row = 0; row < T * X; ++row) {
    const int32_t e = expert.typed_data()[row];
    if (e < 0 || e >= E) return ffi::Error::InvalidArgument("an expert's number is out of range");
    from[e].push_back(x.typed_data() + row / X * I);
    to[e].push_back(y->typed_data() + row * O);
  }
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  std::vector<Job<Mxfp4>> jobs;
  for (int64_t e = 0; e < E; ++e) {
    if (from[e].empty()) continue;
    const Mxfp4 matrix{blocks.typed_data() + e * J * 16 * O, scales.typed_data() + e * J * O, I, O};
    const Rows rows{from[e].data(), to[e].data(), static_cast<int64_t>(from[e].size())};
    jobs.push_back(MakeJob(matrix, rows, threads));
  }
  Run(pool, jobs, threads);
  return ffi::Error::Success();
}

// y[T, O] = x[T, I] w[I, O].
ffi::Error Bf16Product(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::BF16> w,
                       ffi::ResultBuffer<ffi::F32> y) {
  const int64_t T = x.dimensions()[0], I = w.dimensions()[0], O = w.dimensions()[1];
  std::vector<const float*> from(T);
  std::vector<float*> to(T);
  for (int64_t t = 0; t < T; ++t) {
    from[t] = x.typed_data() + t * I;
    to[t] = y->typed_data() + t * O;
  }
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const Bf16 matrix{reinterpret_cast<const uint16_t*>(w.untyped_data()), I, O};
  const std::vector<Job<Bf16>> jobs{MakeJob(matrix, Rows{from.data(), to.data(), T}, threads)};
  Run(pool, jobs, threads);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(mxfp4_products, Mxfp4Products,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(bf16_product, Bf16Product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::BF16>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
