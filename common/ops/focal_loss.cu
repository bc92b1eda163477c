// Sigmoid focal loss and its gradient: one pass over the logits each, limited by memory bandwidth.
//
// A thread takes 16 bytes of logits at a time. With z the logit of the wrong answer (x where the target is 0,
// -x where it is 1) and q = sigmoid(z):
//     loss       = weight q^gamma softplus(z)
//     d loss/d z = weight q^gamma (q + gamma (1 - q) softplus(z))
// Everything follows from e = exp(-|z|), which neither overflows nor loses the small values.
// A plain C interface, so that one build fits every version of PyTorch.

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <type_traits>

namespace {

constexpr unsigned kThreads = 256;
constexpr float kLog2E = 1.4426950408889634f;

struct Problem {
    const long long* targets;  // [rows]
    unsigned elements;         // rows * classes, below 2^31
    unsigned classes;
    unsigned magic, shift;     // element / classes = (mulhi(element, magic) + element) >> shift
    float gamma;
    float negative_weight, positive_weight;
};

template <typename T, int N>
struct alignas(sizeof(T) * N >= 16 ? 16 : sizeof(T) * N) Pack {
    T value[N];
};

__device__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log(1 + e) for 0 <= e <= 1 by the best polynomial of degree 8 for log(1 + e) / e (3e-8): right relative to itself
// also where e is tiny, as the hardware's logarithm is not.
__device__ float log1p_unit(float e) {
    float p = 5.232687912e-03f;
    p = fmaf(p, e, -2.950521332e-02f);
    p = fmaf(p, e, 7.822591043e-02f);
    p = fmaf(p, e, -1.366324228e-01f);
    p = fmaf(p, e, 1.910600511e-01f);
    p = fmaf(p, e, -2.484298179e-01f);
    p = fmaf(p, e, 3.331909675e-01f);
    p = fmaf(p, e, -4.999949314e-01f);
    p = fmaf(p, e, 9.999999699e-01f);
    return p * e;
}

// The loss of the wrong answer's logit z, or its derivative by z. Gamma 2 is compiled apart (kSquare): it is what
// everybody uses, and its power is a product.
template <bool kSquare, bool kGradient>
__device__ float element(float z, float gamma) {
    z = z > FLT_MAX ? FLT_MAX : z;  // 0 times infinity would be no number; unlike with fminf, a NaN stays one
    const float e = exp2_fast(-kLog2E * fabsf(z));
    const float large = reciprocal_fast(1.0f + e);
    const float small = e * large;
    const float right = z >= 0 ? small : large;  // 1 - q and q, each right relative to itself
    const float wrong = z >= 0 ? large : small;
    const float log1p_e = log1p_unit(e);
    const float cost = fmaxf(z, 0.0f) + log1p_e;  // softplus(z), as log q = min(z, 0) - log1p_e
    // The logarithm has a finite floor, because gamma 0 times an infinite one is not 0.
    const float modulator =
        kSquare ? wrong * wrong : exp2_fast(gamma * kLog2E * fmaxf(fminf(z, 0.0f) - log1p_e, -1e30f));
    return modulator * (kGradient ? fmaf(gamma * right, cost, wrong) : cost);
}

// Which of the N elements from `first` are positives, and which belong to rows to ignore: one bit each.
template <unsigned N>
__device__ void find_targets(const Problem& p, unsigned first, unsigned& positive, unsigned& ignored) {
    positive = ignored = 0;
    unsigned row = (__umulhi(first, p.magic) + first) >> p.shift;
    const unsigned end = min(first + N, p.elements);
    for (unsigned start = row * p.classes; start < end; start += p.classes, ++row) {
        const long long target = __ldg(p.targets + row);
        if (target < 0) {
            const unsigned from = max(start, first) - first, to = min(start + p.classes, end) - first;
            ignored |= ((1u << (to - from)) - 1) << from;
        } else if (target < p.classes) {
            const unsigned position = start + static_cast<unsigned>(target) - first;  // wraps around when before
            if (position < N) positive |= 1u << position;
        }
    }
}

// The losses of N elements from `first`, or their derivatives, in `x`, which holds their logits.
template <typename T, bool kSquare, bool kGradient, unsigned N>
__device__ void evaluate(const T* logits, const Problem& p, unsigned first, float (&x)[N]) {
    unsigned positive, ignored;
    find_targets<N>(p, first, positive, ignored);
    // As if all were negatives, then the few that are not.
    for (unsigned k = 0; k < N; ++k) x[k] = p.negative_weight * element<kSquare, kGradient>(x[k], p.gamma);
    for (; positive != 0; positive &= positive - 1) {
        const unsigned position = __ffs(positive) - 1;
        const float z = -static_cast<float>(logits[first + position]);
        const float weight = kGradient ? -p.positive_weight : p.positive_weight;
        const float value = weight * element<kSquare, kGradient>(z, p.gamma);
        for (unsigned k = 0; k < N; ++k) x[k] = k == position ? value : x[k];
    }
    if (ignored != 0) {
        for (unsigned k = 0; k < N; ++k) x[k] = ignored >> k & 1 ? 0.0f : x[k];
    }
}

template <typename T, unsigned N>
__device__ void load(const T* __restrict__ from, unsigned first, unsigned elements, float (&x)[N]) {
    if (first + N <= elements && reinterpret_cast<std::uintptr_t>(from) % 16 == 0) {
        const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from + first);
        for (unsigned k = 0; k < N; ++k) x[k] = static_cast<float>(pack.value[k]);
    } else {
        for (unsigned k = 0; k < N; ++k) x[k] = first + k < elements ? static_cast<float>(from[first + k]) : -INFINITY;
    }
}

template <typename T, unsigned N>
__device__ void store(T* to, unsigned first, unsigned elements, const float (&x)[N]) {
    if (first + N <= elements) {
        Pack<T, N> pack;
        for (unsigned k = 0; k < N; ++k) pack.value[k] = static_cast<T>(x[k]);
        *reinterpret_cast<Pack<T, N>*>(to + first) = pack;
    } else {
        for (unsigned k = 0; k < N && first + k < elements; ++k) to[first + k] = static_cast<T>(x[k]);
    }
}

// Always the same order of additions: the loss of the same input is the same to the last bit.
__device__ void store_sum_of_block(float sum, float* out) {
    __shared__ float warps[kThreads / 32];
    for (int step = 16; step > 0; step >>= 1) sum += __shfl_down_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned warp = 1; warp < kThreads / 32; ++warp) sum += warps[warp];
        out[blockIdx.x] = sum;
    }
}

// summed: the loss is one number, so forward writes a sum for each block, and backward finds one number upstream.
template <typename T, bool kSquare, bool kGradient>
__global__ void __launch_bounds__(kThreads)
focal_loss(const void* logits_of_type, Problem p, const float* upstream, bool summed, void* out) {
    const T* logits = static_cast<const T*>(logits_of_type);
    constexpr unsigned N = 16 / sizeof(T);
    const unsigned stride = gridDim.x * kThreads * N;
    if (kGradient && summed) {
        p.negative_weight *= *upstream;
        p.positive_weight *= *upstream;
    }
    float sum = 0;
    for (unsigned first = (blockIdx.x * kThreads + threadIdx.x) * N; first < p.elements; first += stride) {
        float x[N];
        load(logits, first, p.elements, x);
        evaluate<T, kSquare, kGradient>(logits, p, first, x);
        if (kGradient && !summed) {
            float factor[N];
            load(upstream, first, p.elements, factor);
            for (unsigned k = 0; k < N; ++k) x[k] *= factor[k];
        }
        if (kGradient || !summed) {
            store(static_cast<std::conditional_t<kGradient, T, float>*>(out), first, p.elements, x);
        } else {
            for (unsigned k = 0; k < N; ++k) sum += first + k < p.elements ? x[k] : 0.0f;
        }
    }
    if (!kGradient && summed) store_sum_of_block(sum, static_cast<float*>(out));
}

using Kernel = void (*)(const void*, Problem, const float*, bool, void*);

template <typename T>
Kernel kernel_of(bool square, bool gradient) {
    if (square) return gradient ? focal_loss<T, true, true> : focal_loss<T, true, false>;
    return gradient ? focal_loss<T, false, true> : focal_loss<T, false, false>;
}

}  // namespace

// Both return a cudaError_t; the first 0 if this build holds code for the current device.
extern "C" int focal_loss_usable() {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, focal_loss<float, true, false>);
    cudaGetLastError();
    return static_cast<int>(error);
}

// logits: [rows, classes], float32, half or bfloat16 (type 0, 1 or 2); rows * classes is below 2^31. Without upstream,
// out is the loss: float32 [blocks], partial sums, if summed, else [rows, classes]. With it (float32, one number if
// summed, else [rows, classes]), out is the gradient in the shape and type of the logits. out is 16-byte aligned.
extern "C" int focal_loss(const void* logits, int logit_type, const long long* targets, long long rows,
                          long long classes, float gamma, float negative_weight, float positive_weight,
                          const float* upstream, int summed, void* out, int blocks, void* stream) {
    unsigned shift = 0;
    while ((1ll << shift) < classes) ++shift;
    const unsigned long long magic = ((1ull << 32) * ((1ull << shift) - classes)) / classes + 1;
    const Problem problem{targets, static_cast<unsigned>(rows * classes), static_cast<unsigned>(classes),
                          static_cast<unsigned>(magic), shift, gamma, negative_weight, positive_weight};
    const auto kernel_of_type = logit_type == 0   ? kernel_of<float>
                                : logit_type == 1 ? kernel_of<__half>
                                                  : kernel_of<__nv_bfloat16>;
    const Kernel kernel = kernel_of_type(gamma == 2.0f, upstream != nullptr);
    kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(logits, problem, upstream, summed != 0, out);
    return static_cast<int>(cudaGetLastError());
}
