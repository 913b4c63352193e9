// The plain ones of candle's kernels: those that fill, convert and copy. A program that computes with others than these is
// told which; each has an operation of ours that should be used in its place.
//
// `info` is a list of dimensions and, behind it, of strides, or null where the numbers lie in order.
#include "standin.h"

#include <cstring>
#include <map>
#include <tuple>
#include <type_traits>

namespace standin {

namespace {

struct bf16 {
    uint16_t bits;
    bf16() = default;
    explicit bf16(float x) {
        uint32_t wide;
        memcpy(&wide, &x, 4);
        bits = x != x ? 0x7fff : uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
    }
    operator float() const {
        uint32_t wide = uint32_t(bits) << 16;
        float x;
        memcpy(&x, &wide, 4);
        return x;
    }
};
typedef _Float16 f16;

using Make = std::function<void()> (*)(const char* name, void** params);

template <class P>
P argument(const char* name, void** params, int i) {
    P p;
    memcpy(&p, params[i], sizeof p);
    if constexpr (std::is_pointer_v<P>) {
        if (p) {
            char what[40];
            snprintf(what, sizeof what, "argument %d", i);
            void* at = reach(name, what, reinterpret_cast<CUdeviceptr>(p), 0);
            if (!at) give_up("%s: it cannot go on", name);
            p = static_cast<P>(at);
        }
    }
    return p;
}

template <class... P, std::size_t... I>
std::function<void()> prepare(void (*kernel)(P...), const char* name, void** params, std::index_sequence<I...>) {
    std::tuple<P...> args{argument<P>(name, params, int(I))...};
    return [=] { std::apply(kernel, args); };
}

template <auto kernel>
std::function<void()> make(const char* name, void** params) {
    return [&]<class... P>(void (*k)(P...)) { return prepare(k, name, params, std::index_sequence_for<P...>()); }(kernel);
}

typedef std::size_t N;

N strided(N i, N dims, const N* info) {
    N at = 0;
    for (N d = dims; d-- > 0;) {
        at += i % info[d] * info[dims + d];
        i /= info[d];
    }
    return at;
}

template <class T>
void const_set(N n, N dims, const N* info, T value, T* out) {
    for (N i = 0; i < n; i++) out[info ? strided(i, dims, info) : i] = value;
}

template <class S, class T>
void cast(N n, N dims, const N* info, const S* in, T* out) {
    for (N i = 0; i < n; i++) {
        S x = in[info ? strided(i, dims, info) : i];
        if constexpr (std::is_same_v<S, T>) {
            out[i] = x;
        } else if constexpr (std::is_same_v<T, bf16>) {
            out[i] = bf16(float(x));
        } else if constexpr (std::is_same_v<S, bf16>) {
            out[i] = T(float(x));
        } else {
            out[i] = T(x);
        }
    }
}

template <class T>
void ucopy(N n, N dims, const N* info, const T* in, T* out) {
    for (N i = 0; i < n; i++) out[i] = (in ? in : out)[info ? strided(i, dims, info) : i];
}

template <class T>
void copy2d(const T* in, T* out, uint32_t rows, uint32_t cols, uint32_t in_stride, uint32_t out_stride) {
    for (N r = 0; r < rows; r++) {
        for (N c = 0; c < cols; c++) out[r * out_stride + c] = in[r * in_stride + c];
    }
}

template <class T>
void affine(N n, N dims, const N* info, const T* in, T* out, T factor, T more) {
    for (N i = 0; i < n; i++) {
        T x = (in ? in : out)[info ? strided(i, dims, info) : i];
        if constexpr (std::is_same_v<T, bf16>) {
            out[i] = bf16(float(bf16(float(x) * float(factor))) + float(more));
        } else {
            out[i] = T(T(x * factor) + more);
        }
    }
}

std::map<std::string, Make> kernels() {
    std::map<std::string, Make> all;
#define OF(T, name)                                   \
    all["const_set_" name] = make<const_set<T>>;      \
    all["ucopy_" name] = make<ucopy<T>>;              \
    all["copy2d_" name] = make<copy2d<T>>;            \
    all["affine_" name] = make<affine<T>>;            \
    all["cast_" name "_u8"] = make<cast<T, uint8_t>>; \
    all["cast_" name "_u32"] = make<cast<T, uint32_t>>; \
    all["cast_" name "_i64"] = make<cast<T, int64_t>>; \
    all["cast_" name "_bf16"] = make<cast<T, bf16>>;  \
    all["cast_" name "_f16"] = make<cast<T, f16>>;    \
    all["cast_" name "_f32"] = make<cast<T, float>>;  \
    all["cast_" name "_f64"] = make<cast<T, double>>;
    OF(uint8_t, "u8")
    OF(uint32_t, "u32")
    OF(int64_t, "i64")
    OF(bf16, "bf16")
    OF(f16, "f16")
    OF(float, "f32")
    OF(double, "f64")
#undef OF
    return all;
}

}  // namespace

std::function<void()> candle_kernel(const std::string& name, void** params) {
    static const std::map<std::string, Make> all = kernels();
    auto found = all.find(name);
    return found == all.end() ? std::function<void()>() : found->second(name.c_str(), params);
}

}  // namespace standin
