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

namespace {

constexpr int kThreads = 256;
constexpr float kLog2E = 1.4426950408889634f;

enum LogitType { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };
enum TargetType { kIndex = 0, kBool = 1, kFloat = 2 };
enum Form { kIndexSquare, kIndexPower, kDense };  // what is compiled apart; gamma 2 is worth its own

struct Problem {
    const void* targets;      // [rows] int64, or [rows, classes] bool or float32
    TargetType target_type;
    unsigned elements;        // rows * classes, below 2^31
    unsigned classes;
    unsigned magic, shift;    // element / classes = (mulhi(element, magic) + element) >> shift
    float gamma;
    float negative_weight, positive_weight;

    __device__ float target(unsigned element) const {
        if (target_type == kFloat) return static_cast<const float*>(targets)[element];
        return static_cast<const uint8_t*>(targets)[element] != 0 ? 1.0f : 0.0f;
    }
};

template <typename T, int N>
struct alignas(sizeof(T) * N >= 16 ? 16 : sizeof(T) * N) Pack {
    T value[N];
};

__device__ float to_float(float x) { return x; }
__device__ float to_float(__half x) { return __half2float(x); }
__device__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T> __device__ T from_float(float x);
template <> __device__ float from_float<float>(float x) { return x; }
template <> __device__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

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

__device__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
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

// 0 times infinity would be no number. One instruction each, and unlike with fminf and fmaxf a NaN stays one.
__device__ float not_above(float limit, float x) { return x > limit ? limit : x; }
__device__ float not_below(float limit, float x) { return x < limit ? limit : x; }

struct Sigmoid {
    float right, wrong;  // 1 - q and q, each right relative to itself
    float log1p_e;       // softplus(z) = max(z, 0) + log1p_e, and log q = min(z, 0) - log1p_e
};

__device__ Sigmoid sigmoid(float z) {
    const float e = exp2_fast(-kLog2E * fabsf(z));
    const float large = reciprocal_fast(1.0f + e);
    const float small = e * large;
    return {z >= 0 ? small : large, z >= 0 ? large : small, log1p_unit(e)};
}

template <bool kSquare>
__device__ float modulator(float z, const Sigmoid& s, float gamma) {
    if (kSquare) return s.wrong * s.wrong;
    // A finite floor, because gamma 0 times an infinite logarithm is not 0.
    return exp2_fast(gamma * kLog2E * fmaxf(fminf(z, 0.0f) - s.log1p_e, -1e30f));
}

// The loss of the wrong answer's logit z, or its derivative by z.
template <bool kSquare, bool kGradient>
__device__ float element(float z, float gamma) {
    z = not_above(FLT_MAX, z);
    const Sigmoid s = sigmoid(z);
    const float cost = fmaxf(z, 0.0f) + s.log1p_e;
    return modulator<kSquare>(z, s, gamma) * (kGradient ? fmaf(gamma * s.right, cost, s.wrong) : cost);
}

// The same for a target anywhere from 0 to 1, and its derivative by the logit.
template <bool kGradient>
__device__ float dense_element(float x, float target, const Problem& p) {
    x = not_below(-FLT_MAX, not_above(FLT_MAX, x));
    const Sigmoid s = sigmoid(x);  // s.wrong is the probability of class 1
    const float other = 1.0f - target;
    const float wrong = fmaf(target, s.right, other * s.wrong);
    const float cost = fmaf(target, fmaxf(-x, 0.0f), other * fmaxf(x, 0.0f)) + s.log1p_e;
    const float floored = fmaxf(wrong, FLT_MIN);
    const float factor = p.gamma == 2.0f ? wrong * wrong : exp2_fast(p.gamma * log2_fast(floored));
    const float weight = fmaf(p.positive_weight, target, p.negative_weight * other);
    if (!kGradient) return weight * factor * cost;
    const float relative = s.right * s.wrong * (1.0f - 2.0f * target) / floored;
    const float pull = fmaf(other, s.wrong, -target * s.right);
    return weight * factor * fmaf(p.gamma * relative, cost, pull);
}

// Which of the N elements from `first` are positives, and which belong to rows to ignore: one bit each.
template <int N>
__device__ void find_targets(const Problem& p, unsigned first, unsigned& positive, unsigned& ignored) {
    positive = ignored = 0;
    unsigned row = (__umulhi(first, p.magic) + first) >> p.shift;
    const unsigned end = min(first + N, p.elements);
    for (unsigned start = row * p.classes; start < end; start += p.classes, ++row) {
        const long long target = __ldg(static_cast<const long long*>(p.targets) + row);
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
template <typename T, int kForm, bool kGradient, int N>
__device__ void evaluate(const T* logits, const Problem& p, unsigned first, float (&x)[N]) {
    if constexpr (kForm == kDense) {
#pragma unroll
        for (int k = 0; k < N; ++k) x[k] = dense_element<kGradient>(x[k], p.target(min(first + k, p.elements - 1)), p);
    } else {
        constexpr bool kSquare = kForm == kIndexSquare;
        unsigned positive, ignored;
        find_targets<N>(p, first, positive, ignored);
        // As if all were negatives, then the few that are not.
#pragma unroll
        for (int k = 0; k < N; ++k) x[k] = p.negative_weight * element<kSquare, kGradient>(x[k], p.gamma);
        for (; positive != 0; positive &= positive - 1) {
            const unsigned position = __ffs(positive) - 1;
            const float z = -to_float(logits[first + position]);
            const float weight = kGradient ? -p.positive_weight : p.positive_weight;
            const float value = weight * element<kSquare, kGradient>(z, p.gamma);
#pragma unroll
            for (int k = 0; k < N; ++k) x[k] = k == position ? value : x[k];
        }
        if (ignored != 0) {
#pragma unroll
            for (int k = 0; k < N; ++k) x[k] = ignored >> k & 1 ? 0.0f : x[k];
        }
    }
}

template <typename T, int N>
__device__ void load(const T* __restrict__ from, unsigned first, unsigned elements, float (&x)[N]) {
    if (first + N <= elements) {
        const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from + first);
#pragma unroll
        for (int k = 0; k < N; ++k) x[k] = to_float(pack.value[k]);
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) x[k] = first + k < elements ? to_float(from[first + k]) : -INFINITY;
    }
}

template <typename T, int N>
__device__ void store(T* to, unsigned first, unsigned elements, const float (&x)[N]) {
    if (first + N <= elements) {
        Pack<T, N> pack;
#pragma unroll
        for (int k = 0; k < N; ++k) pack.value[k] = from_float<T>(x[k]);
        *reinterpret_cast<Pack<T, N>*>(to + first) = pack;
    } else {
        #pragma unroll
        for (int k = 0; k < N; ++k) {
            if (first + k < elements) to[first + k] = from_float<T>(x[k]);
        }
    }
}

template <typename T, int kForm>
__global__ void __launch_bounds__(kThreads) forward(const T* logits, Problem p, bool summed, float* out) {
    constexpr int N = 16 / sizeof(T);
    const unsigned stride = gridDim.x * kThreads * N;
    float sum = 0;
    for (unsigned first = (blockIdx.x * kThreads + threadIdx.x) * N; first < p.elements; first += stride) {
        float x[N];
        load(logits, first, p.elements, x);
        evaluate<T, kForm, false>(logits, p, first, x);
        if (summed) {
#pragma unroll
            for (int k = 0; k < N; ++k) sum += first + k < p.elements ? x[k] : 0.0f;
        } else {
            store(out, first, p.elements, x);
        }
    }
    if (!summed) return;
    // Always the same order of additions: the loss of the same input is the same to the last bit.
    __shared__ float warps[kThreads / 32];
    for (int step = 16; step > 0; step >>= 1) sum += __shfl_down_sync(~0u, sum, step);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < kThreads / 32; ++warp) sum += warps[warp];
        out[blockIdx.x] = sum;
    }
}

template <typename T, int kForm>
__global__ void __launch_bounds__(kThreads)
backward(const T* logits, Problem p, const float* upstream, bool scalar, T* out) {
    constexpr int N = 16 / sizeof(T);
    const unsigned stride = gridDim.x * kThreads * N;
    if (scalar) {
        p.negative_weight *= *upstream;
        p.positive_weight *= *upstream;
    }
    for (unsigned first = (blockIdx.x * kThreads + threadIdx.x) * N; first < p.elements; first += stride) {
        float x[N];
        load(logits, first, p.elements, x);
        evaluate<T, kForm, true>(logits, p, first, x);
        if (!scalar) {
            float factor[N];
            load(upstream, first, p.elements, factor);
#pragma unroll
            for (int k = 0; k < N; ++k) x[k] *= factor[k];
        }
        store(out, first, p.elements, x);
    }
}

struct Launch {
    Problem problem;
    const float* upstream;  // null: forward
    bool summed_or_scalar;
    void* out;
    int blocks;
    cudaStream_t stream;
};

template <typename T, int kForm>
int launch(const void* logits, const Launch& l) {
    const T* from = static_cast<const T*>(logits);
    if (l.upstream == nullptr) {
        float* out = static_cast<float*>(l.out);
        forward<T, kForm><<<l.blocks, kThreads, 0, l.stream>>>(from, l.problem, l.summed_or_scalar, out);
    } else {
        T* out = static_cast<T*>(l.out);
        backward<T, kForm><<<l.blocks, kThreads, 0, l.stream>>>(from, l.problem, l.upstream, l.summed_or_scalar, out);
    }
    return static_cast<int>(cudaGetLastError());
}

template <typename T>
int launch(const void* logits, const Launch& l) {
    if (l.problem.target_type != kIndex) return launch<T, kDense>(logits, l);
    return l.problem.gamma == 2.0f ? launch<T, kIndexSquare>(logits, l) : launch<T, kIndexPower>(logits, l);
}

int launch(const void* logits, int logit_type, const Launch& l) {
    if (logit_type == kFloat32) return launch<float>(logits, l);
    return logit_type == kFloat16 ? launch<__half>(logits, l) : launch<__nv_bfloat16>(logits, l);
}

Problem describe(const void* targets, int target_type, long long rows, long long classes, float gamma,
                 float negative_weight, float positive_weight) {
    unsigned shift = 0;
    while ((1ull << shift) < static_cast<unsigned long long>(classes)) ++shift;
    const unsigned long long magic = ((1ull << 32) * ((1ull << shift) - classes)) / classes + 1;
    return {targets, static_cast<TargetType>(target_type), static_cast<unsigned>(rows * classes),
            static_cast<unsigned>(classes), static_cast<unsigned>(magic), shift, gamma, negative_weight,
            positive_weight};
}

}  // namespace

// Both return a cudaError_t. logits [rows, classes] and out are 16-byte aligned, rows * classes is below 2^31.
extern "C" {

// 0 if this build holds code for the current device.
int focal_loss_usable() {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, forward<float, kIndexSquare>);
    cudaGetLastError();
    return static_cast<int>(error);
}

// out: float32 [blocks], partial sums, if summed, else [rows, classes].
int focal_loss_forward(const void* logits, int logit_type, const void* targets, int target_type, long long rows,
                       long long classes, float gamma, float negative_weight, float positive_weight, void* out,
                       int summed, int blocks, void* stream) {
    const Problem problem = describe(targets, target_type, rows, classes, gamma, negative_weight, positive_weight);
    return launch(logits, logit_type,
                  {problem, nullptr, summed != 0, out, blocks, static_cast<cudaStream_t>(stream)});
}

// upstream: float32, one number if scalar, else [rows, classes]. out: [rows, classes] in the type of the logits.
int focal_loss_backward(const void* logits, int logit_type, const void* targets, int target_type, long long rows,
                        long long classes, float gamma, float negative_weight, float positive_weight,
                        const float* upstream, int scalar, void* out, int blocks, void* stream) {
    const Problem problem = describe(targets, target_type, rows, classes, gamma, negative_weight, positive_weight);
    return launch(logits, logit_type,
                  {problem, upstream, scalar != 0, out, blocks, static_cast<cudaStream_t>(stream)});
}

}  // extern "C"
