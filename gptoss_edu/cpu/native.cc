// Products of float32 activations with stored weights, for CPUs. native.py compiles this file on
// first use and says what each function computes; mxfp4.py and attention.py hold the twins in JAX.
//
// A token reads 3.7 GB of the 20B's weights, so memory decides, and the rules are:
// - weights are decoded in registers and never written back;
// - a matrix is cut into tiles of W outputs (tiles.py), each of which lies in memory from its first
//   input to its last: a thread reads one straight line, and asks for what comes next in time;
// - W neighboring outputs are one to four vectors, whose sums stay in registers;
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
#include <string>
#include <thread>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kLanes = 16;   // floats of one vector
constexpr int64_t kBlock = 32;   // inputs of one MXFP4 block, and of one step for many rows
constexpr int64_t kRows = 6;     // rows of one step: 6 x 4 sums, 4 weights and 1 input fill 29 registers
constexpr int64_t kMostRows = 96;  // rows whose inputs and sums stay in the second cache
constexpr int64_t kAhead = 4096;   // bytes: so far ahead weights are asked for
constexpr int64_t kPieces = 4;     // of each matrix and thread: one who is late leaves some to the others

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef int8_t SignedBytes __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(64)));

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

// 2^(byte - 127): the byte is a float's exponent, and 255 is not a number. Not for 0.
inline Floats ScaleValue(Words byte) {
  return (Floats)(byte == 255 ? (Words{} + 0x7fc00000u) : (byte << 23));
}

// Is one of W scales so small or so large that it is no float, or that a weight may be none (4 x 2^126
// is infinite)? Such blocks are decoded first, so that every weight is what it is in mxfp4.py.
template <int V>
inline bool Extreme(const uint8_t* scales) {
  Bytes any = {};
  for (int v = 0; v < V; ++v) {
    any |= (Bytes)((Bytes)(Load<Bytes>(scales + v * kLanes) - 2) > 250);  // 0, 1, 253, 254, 255
  }
  uint64_t parts[2];
  std::memcpy(parts, &any, sizeof(parts));
  return (parts[0] | parts[1]) != 0;
}

// Ask for the memory from here on, `bytes` of it. Beyond the end of an array that does nothing.
template <int bytes>
inline void Prefetch(const void* from) {
  for (int line = 0; line < bytes; line += 64) {
    __builtin_prefetch(static_cast<const char*>(from) + kAhead + line);
  }
}

// One expert's matrix in MXFP4: blocks [L tiles, J * 16, W] and scales [L, J, W].
struct Mxfp4 {
  const uint8_t* blocks;
  const uint8_t* scales;
  int64_t inputs, tiles;

  // y[V vectors] = x[I] times one tile.
  template <int V>
  inline void Product(int64_t tile, const float* x, float* y) const {
    constexpr int64_t W = V * kLanes;
    const uint8_t* bytes = blocks + tile * inputs / 2 * W;
    const uint8_t* scale = scales + tile * inputs / kBlock * W;
    Floats sum[V] = {};
    for (int64_t i = 0; i < inputs; i += kBlock, scale += W) {
      if (__builtin_expect(Extreme<V>(scale), 0)) {
        alignas(64) float w[kBlock * W];
        Decode<V>(tile, i, w);
        for (int k = 0; k < kBlock; ++k) {
          for (int v = 0; v < V; ++v) sum[v] += Load<Floats>(w + k * W + v * kLanes) * x[i + k];
        }
        bytes += kBlock / 2 * W;
        continue;
      }
      Floats even[V] = {}, odd[V] = {};
      for (int u = 0; u < kBlock / 2; ++u, bytes += W) {
        Prefetch<W>(bytes);
        for (int v = 0; v < V; ++v) {
          const Words pair = Widen(bytes + v * kLanes);
          even[v] += NibbleValue(pair) * x[i + 2 * u];
          odd[v] += NibbleValue(pair >> 4) * x[i + 2 * u + 1];
        }
      }
      Prefetch<W>(scale);
      for (int v = 0; v < V; ++v) sum[v] += (even[v] + odd[v]) * ScaleValue(Widen(scale + v * kLanes));
    }
    for (int v = 0; v < V; ++v) Store(y + v * kLanes, sum[v]);
  }

  // The weights of one block of a tile as floats, w[32][V vectors], for use by many rows.
  template <int V>
  inline void Decode(int64_t tile, int64_t i, float* w) const {
    constexpr int64_t W = V * kLanes;
    const uint8_t* bytes = blocks + (tile * inputs + i) / 2 * W;
    const uint8_t* scale = scales + (tile * inputs + i) / kBlock * W;
    Floats factor[V], rest[V];  // 2^-127 is no float that all processors know: two factors are
    for (int v = 0; v < V; ++v) {
      const Words byte = Widen(scale + v * kLanes);
      factor[v] = ScaleValue((byte >> 1) + 64);
      rest[v] = ScaleValue(byte == 255 ? byte : byte - (byte >> 1) + 63);
    }
    for (int u = 0; u < kBlock / 2; ++u, bytes += W, w += 2 * W) {
      Prefetch<W>(bytes);
      for (int v = 0; v < V; ++v) {
        const Words pair = Widen(bytes + v * kLanes);
        Store(w + v * kLanes, NibbleValue(pair) * factor[v] * rest[v]);
        Store(w + W + v * kLanes, NibbleValue(pair >> 4) * factor[v] * rest[v]);
      }
    }
  }
};

// A matrix in bfloat16, the upper half of a float32: [L tiles, I, W].
struct Bf16 {
  const uint16_t* weights;
  int64_t inputs, tiles;

  static inline Floats Value(const uint16_t* from) {
    return (Floats)(__builtin_convertvector(Load<Halves>(from), Words) << 16);
  }

  template <int V>
  inline void Product(int64_t tile, const float* x, float* y) const {
    constexpr int64_t W = V * kLanes, K = 8 / V;  // eight sums: as many as are under way at once
    const uint16_t* row = weights + tile * inputs * W;
    Floats sum[K][V] = {};
    for (int64_t i = 0; i < inputs; i += K) {
      for (int k = 0; k < K; ++k, row += W) {
        Prefetch<2 * W>(row);
        for (int v = 0; v < V; ++v) sum[k][v] += Value(row + v * kLanes) * x[i + k];
      }
    }
    for (int v = 0; v < V; ++v) {
      for (int k = 1; k < K; ++k) sum[0][v] += sum[k][v];
      Store(y + v * kLanes, sum[0][v]);
    }
  }

  template <int V>
  inline void Decode(int64_t tile, int64_t i, float* w) const {
    constexpr int64_t W = V * kLanes;
    const uint16_t* row = weights + (tile * inputs + i) * W;
    for (int k = 0; k < kBlock; ++k, row += W, w += W) {
      Prefetch<2 * W>(row);
      for (int v = 0; v < V; ++v) Store(w + v * kLanes, Value(row + v * kLanes));
    }
  }
};

// A matrix in 8 bits, numbers [L tiles, I, W] times scales [L, J, W], one for 32 inputs, in bfloat16.
struct Int8 {
  const int8_t* numbers;
  const uint16_t* scales;
  int64_t inputs, tiles;

  static inline Floats Value(const int8_t* from) {
#ifdef __AVX512F__
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Load<__m128i>(from)));
#else
    return __builtin_convertvector(__builtin_convertvector(Load<SignedBytes>(from), Integers), Floats);
#endif
  }

  template <int V>
  inline void Product(int64_t tile, const float* x, float* y) const {
    constexpr int64_t W = V * kLanes, K = 8 / V;
    const int8_t* row = numbers + tile * inputs * W;
    const uint16_t* scale = scales + tile * inputs / kBlock * W;
    Floats sum[V] = {};
    for (int64_t i = 0; i < inputs; i += kBlock, scale += W) {
      Floats part[K][V] = {};
      for (int j = 0; j < kBlock; j += K) {
        for (int k = 0; k < K; ++k, row += W) {
          Prefetch<W>(row);
          for (int v = 0; v < V; ++v) part[k][v] += Value(row + v * kLanes) * x[i + j + k];
        }
      }
      Prefetch<2 * W>(scale);
      for (int v = 0; v < V; ++v) {
        for (int k = 1; k < K; ++k) part[0][v] += part[k][v];
        sum[v] += part[0][v] * Bf16::Value(scale + v * kLanes);
      }
    }
    for (int v = 0; v < V; ++v) Store(y + v * kLanes, sum[v]);
  }

  template <int V>
  inline void Decode(int64_t tile, int64_t i, float* w) const {
    constexpr int64_t W = V * kLanes;
    const int8_t* row = numbers + (tile * inputs + i) * W;
    const uint16_t* scale = scales + (tile * inputs + i) / kBlock * W;
    Floats factor[V];
    for (int v = 0; v < V; ++v) factor[v] = Bf16::Value(scale + v * kLanes);
    for (int k = 0; k < kBlock; ++k, row += W, w += W) {
      Prefetch<W>(row);
      for (int v = 0; v < V; ++v) Store(w + v * kLanes, Value(row + v * kLanes) * factor[v]);
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

// All rows times one tile.
template <int V, typename Matrix>
void MultiplyTile(const Matrix& matrix, Rows rows, int64_t tile) {
  const int64_t o = tile * V * kLanes;
  if (rows.count == 1) return matrix.template Product<V>(tile, rows.x[0], rows.y[0] + o);
  alignas(64) float w[kBlock * V * kLanes];
  for (int64_t r = 0; r < rows.count; ++r) std::fill_n(rows.y[r] + o, V * kLanes, 0.0f);
  for (int64_t first = 0; first < rows.count; first += kMostRows) {
    const Rows part{rows.x + first, rows.y + first, std::min(kMostRows, rows.count - first)};
    for (int64_t i = 0; i < matrix.inputs; i += kBlock) {
      matrix.template Decode<V>(tile, i, w);
      AddTiles<V>(part, i, o, w);
    }
  }
}

// A matrix and its rows, cut into pieces of `width` tiles.
template <typename Matrix>
struct Job {
  Matrix matrix;
  Rows rows;
  int64_t width, pieces;
};

template <typename Matrix>
Job<Matrix> MakeJob(const Matrix& matrix, Rows rows, int64_t threads) {
  const int64_t wanted = threads * kPieces;
  const int64_t width = (matrix.tiles + wanted - 1) / wanted;
  return {matrix, rows, width, (matrix.tiles + width - 1) / width};
}

// Whoever has time takes the next piece. The caller waits for the pieces, not for the threads: one
// that wakes up late finds nothing left, and only the shared counters have to outlive it.
template <int V, typename Matrix>
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
      const int64_t end = std::min(begin + job->width, job->matrix.tiles);
      for (int64_t tile = begin; tile < end; ++tile) MultiplyTile<V>(job->matrix, job->rows, tile);
      shared->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t helper = 1; helper < std::min(threads, shared->total); ++helper) {
    pool.Schedule(decltype(work)(work));
  }
  work();
  while (shared->done.load(std::memory_order_acquire) < shared->total) std::this_thread::yield();
}

// Run with as many vectors as the tiles of width W have.
template <typename Matrix>
ffi::Error RunTiles(ffi::ThreadPool pool, const std::vector<Job<Matrix>>& jobs, int64_t threads, int64_t W) {
  switch (W / kLanes) {
    case 1: Run<1>(pool, jobs, threads); break;
    case 2: Run<2>(pool, jobs, threads); break;
    case 4: Run<4>(pool, jobs, threads); break;
  }
  return ffi::Error::Success();
}

using Shape = std::vector<int64_t>;

std::string Text(const Shape& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

// A sentence where an array is not as the others need it; nothing is read before all are.
template <typename Array>
std::string Wrong(const char* name, const Array& array, const Shape& expected) {
  const Shape found(array.dimensions().begin(), array.dimensions().end());
  if (found == expected) return "";
  return std::string(name) + " is " + Text(found) + ", expected " + Text(expected) + "; ";
}

// A sentence where the kernels have no loop for tiles [L, I, W].
std::string Wrong(int64_t L, int64_t I, int64_t W) {
  if (L > 0 && I % kBlock == 0 && (W == 16 || W == 32 || W == 64)) return "";
  return "tiles [L, I, W] are " + Text({L, I, W}) +
         ", expected one or more, 32 inputs or a multiple of it, and 16, 32 or 64 outputs; ";
}

// y[T, X, O] = x[T, I] times the matrices expert[T, X]; all rows of an expert are done together.
ffi::Error Mxfp4Products(ffi::ThreadPool pool, ffi::BufferR2<ffi::F32> x, ffi::BufferR2<ffi::S32> expert,
                         ffi::BufferR4<ffi::U8> blocks, ffi::BufferR4<ffi::U8> scales,
                         ffi::ResultBufferR3<ffi::F32> y) {
  const auto size = scales.dimensions();
  const int64_t E = size[0], L = size[1], J = size[2], W = size[3], I = J * kBlock;
  const int64_t T = expert.dimensions()[0], X = expert.dimensions()[1];
  const std::string wrong = Wrong(L, I, W) + Wrong("x", x, {T, I}) + Wrong("blocks", blocks, {E, L, J * 16, W}) +
                            Wrong("y", *y, {T, X, L * W});
  if (!wrong.empty()) return ffi::Error::InvalidArgument(wrong);
  std::vector<std::vector<const float*>> from(E);
  std::vector<std::vector<float*>> to(E);
  for (int64_t row = 0; row < T * X; ++row) {
    const int32_t e = expert.typed_data()[row];
    if (e < 0 || e >= E) {
      return ffi::Error::InvalidArgument("expert " + std::to_string(e) + " is out of range: there are " +
                                         std::to_string(E));
    }
    from[e].push_back(x.typed_data() + row / X * I);
    to[e].push_back(y->typed_data() + row * L * W);
  }
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  std::vector<Job<Mxfp4>> jobs;
  for (int64_t e = 0; e < E; ++e) {
    if (from[e].empty()) continue;
    const Mxfp4 matrix{blocks.typed_data() + e * L * J * 16 * W, scales.typed_data() + e * L * J * W, I, L};
    const Rows rows{from[e].data(), to[e].data(), static_cast<int64_t>(from[e].size())};
    jobs.push_back(MakeJob(matrix, rows, threads));
  }
  return RunTiles(pool, jobs, threads, W);
}

// All rows of x[T, I] times one matrix, unless something is wrong with it already.
template <typename Matrix>
ffi::Error OneProduct(ffi::ThreadPool pool, ffi::BufferR2<ffi::F32> x, const Matrix& matrix, int64_t W,
                      ffi::ResultBufferR2<ffi::F32> y, std::string wrong) {
  const int64_t T = x.dimensions()[0], I = matrix.inputs, L = matrix.tiles;
  wrong += Wrong(L, I, W) + Wrong("x", x, {T, I}) + Wrong("y", *y, {T, L * W});
  if (!wrong.empty()) return ffi::Error::InvalidArgument(wrong);
  std::vector<const float*> from(T);
  std::vector<float*> to(T);
  for (int64_t t = 0; t < T; ++t) {
    from[t] = x.typed_data() + t * I;
    to[t] = y->typed_data() + t * L * W;
  }
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  const std::vector<Job<Matrix>> jobs{MakeJob(matrix, Rows{from.data(), to.data(), T}, threads)};
  return RunTiles(pool, jobs, threads, W);
}

// y[T, O] = x[T, I] times the matrix whose tiles are w[L, I, W].
ffi::Error Bf16Product(ffi::ThreadPool pool, ffi::BufferR2<ffi::F32> x, ffi::BufferR3<ffi::BF16> w,
                       ffi::ResultBufferR2<ffi::F32> y) {
  const auto size = w.dimensions();
  const Bf16 matrix{reinterpret_cast<const uint16_t*>(w.untyped_data()), size[1], size[0]};
  return OneProduct(pool, x, matrix, size[2], y, "");
}

// The same with numbers[L, I, W] times scales[L, J, W].
ffi::Error Int8Product(ffi::ThreadPool pool, ffi::BufferR2<ffi::F32> x, ffi::BufferR3<ffi::S8> numbers,
                       ffi::BufferR3<ffi::BF16> scales, ffi::ResultBufferR2<ffi::F32> y) {
  const auto size = numbers.dimensions();
  const Int8 matrix{static_cast<const int8_t*>(numbers.untyped_data()),
                    reinterpret_cast<const uint16_t*>(scales.untyped_data()), size[1], size[0]};
  return OneProduct(pool, x, matrix, size[2], y,
                    Wrong("scales", scales, {size[0], size[1] / kBlock, size[2]}));
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(mxfp4_products, Mxfp4Products,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::BufferR2<ffi::F32>>()
                                  .Arg<ffi::BufferR2<ffi::S32>>()
                                  .Arg<ffi::BufferR4<ffi::U8>>()
                                  .Arg<ffi::BufferR4<ffi::U8>>()
                                  .Ret<ffi::BufferR3<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(bf16_product, Bf16Product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::BufferR2<ffi::F32>>()
                                  .Arg<ffi::BufferR3<ffi::BF16>>()
                                  .Ret<ffi::BufferR2<ffi::F32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(int8_product, Int8Product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::BufferR2<ffi::F32>>()
                                  .Arg<ffi::BufferR3<ffi::S8>>()
                                  .Arg<ffi::BufferR3<ffi::BF16>>()
                                  .Ret<ffi::BufferR2<ffi::F32>>());
