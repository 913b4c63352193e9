// cuBLAS and cuBLASLt, as their documentation has them: matrices by columns, D = alpha·op(A)·op(B) + beta·C.
//
// Sums are added in the compute type, in the order of k; the result is rounded to D's type once. What the documentation
// forbids is refused and said: leading dimensions, sizes that do not fit, alignments less than the choice of an algorithm was
// told of, matrices that leave their allocation.
#include "standin.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

using namespace standin;

namespace {

// cublasStatus_t.
enum Status : int {
    DONE = 0,
    NOT_STARTED = 1,
    INVALID = 7,
    FAILED = 13,
    UNSUPPORTED = 15,
};

// cudaDataType.
enum Type : int { F32 = 0, F64 = 1, F16 = 2, BF16 = 14 };
std::size_t size_of(int type) { return type == F64 ? 8 : type == F32 ? 4 : 2; }
const char* name_of(int type) {
    switch (type) {
        case F32: return "f32";
        case F64: return "f64";
        case F16: return "f16";
        case BF16: return "bf16";
        default: return "another type";
    }
}

enum Compute : int { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_64F = 70, COMPUTE_64F_PEDANTIC = 71 };
bool is_wide(int compute) { return compute == COMPUTE_64F || compute == COMPUTE_64F_PEDANTIC; }

// A matrix by columns, and how many of them follow each other at which distance.
struct Matrix {
    int type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batch = 1;
    int64_t stride = 0;
    int32_t order = 0;
    std::size_t bytes() const {
        return rows && cols ? (std::size_t(ld) * (cols - 1) + rows + std::size_t(stride) * std::size_t(batch - 1)) * size_of(type) : 0;
    }
};

struct Product {
    int compute;
    bool transposed_a = false, transposed_b = false;
    int epilogue = 1;
    CUdeviceptr bias = 0;
    Matrix a, b, c, d;
    double alpha = 1, beta = 0;
    uint64_t m() const { return d.rows; }
    uint64_t n() const { return d.cols; }
    uint64_t k() const { return transposed_a ? a.rows : a.cols; }
};

float of_half(uint16_t bits, int type) {
    if (type == BF16) {
        uint32_t wide = uint32_t(bits) << 16;
        float x;
        memcpy(&x, &wide, 4);
        return x;
    }
    _Float16 x;
    memcpy(&x, &bits, 2);
    return float(x);
}

uint16_t to_half(float x, int type) {
    uint16_t half;
    if (type == BF16) {
        uint32_t bits;
        memcpy(&bits, &x, 4);
        return x != x ? 0x7fff : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
    _Float16 rounded = _Float16(x);
    memcpy(&half, &rounded, 2);
    return half;
}

template <class T>
T load(const void* at, std::size_t i, int type) {
    switch (type) {
        case F32: return T(static_cast<const float*>(at)[i]);
        case F64: return T(static_cast<const double*>(at)[i]);
        default: return T(of_half(static_cast<const uint16_t*>(at)[i], type));
    }
}

template <class T>
void store(void* at, std::size_t i, int type, T x) {
    switch (type) {
        case F32: static_cast<float*>(at)[i] = float(x); break;
        case F64: static_cast<double*>(at)[i] = double(x); break;
        default: static_cast<uint16_t*>(at)[i] = to_half(float(x), type);
    }
}

// op(X) in panels of `wide` rows, each by k: element (i, l) lies at (i / wide · k + l) · wide + i % wide. What is beyond
// the last row is 0.
template <class T, std::size_t wide>
std::vector<T> pack(const void* data, const Matrix& x, bool by_rows, std::size_t rows, std::size_t k) {
    std::vector<T> packed((rows + wide - 1) / wide * wide * k);
    auto put = [&](std::size_t i, std::size_t l, T value) { packed[(i / wide * k + l) * wide + i % wide] = value; };
    const std::size_t ld = std::size_t(x.ld);
    if (by_rows) {
        for (std::size_t l = 0; l < k; l++)
            for (std::size_t i = 0; i < rows; i++) put(i, l, load<T>(data, l * ld + i, x.type));
    } else {
        for (std::size_t i = 0; i < rows; i++)
            for (std::size_t l = 0; l < k; l++) put(i, l, load<T>(data, i * ld + l, x.type));
    }
    return packed;
}

constexpr std::size_t WIDE = 16, TALL = 4;

template <class T>
void sums(const T* __restrict a, const T* __restrict b, std::size_t k, T (&__restrict out)[TALL][WIDE]) {
    T sum[TALL][WIDE] = {};
    for (std::size_t l = 0; l < k; l++) {
        for (std::size_t j = 0; j < TALL; j++) {
#pragma GCC unroll 16
            for (std::size_t i = 0; i < WIDE; i++) sum[j][i] += a[l * WIDE + i] * b[l * TALL + j];
        }
    }
    memcpy(out, sum, sizeof sum);
}

template <class T>
void multiply_one(const Product& p, const void* a, const void* b, const void* c, void* d, const void* bias) {
    const std::size_t m = p.m(), n = p.n(), k = p.k();
    const std::vector<T> left = pack<T, WIDE>(a, p.a, !p.transposed_a, m, k);
    const std::vector<T> right = pack<T, TALL>(b, p.b, p.transposed_b, n, k);
    const T alpha = T(p.alpha), beta = T(p.beta);
    auto columns = [&](std::size_t from, std::size_t to) {
        for (std::size_t j = from; j < to; j += TALL) {
            for (std::size_t i = 0; i < m; i += WIDE) {
                T sum[TALL][WIDE];
                sums(&left[i * k], &right[j * k], k, sum);
                for (std::size_t y = 0; y < TALL && j + y < n; y++) {
                    for (std::size_t x = 0; x < WIDE && i + x < m; x++) {
                        T value = alpha * sum[y][x];
                        // What is multiplied by 0 is not read.
                        if (beta != 0) value += beta * load<T>(c, (j + y) * std::size_t(p.c.ld) + i + x, p.c.type);
                        if (bias) value += load<T>(bias, i + x, p.d.type);
                        store(d, (j + y) * std::size_t(p.d.ld) + i + x, p.d.type, value);
                    }
                }
            }
        }
    };
    const std::size_t half = (n / 2 + TALL - 1) / TALL * TALL;
    if (double(m) * double(n) * double(k) < 3e7 || half >= n) return columns(0, n);
    std::thread other([&] { columns(0, half); });
    columns(half, n);
    other.join();
}

// Whether all numbers of a matrix are one: such a product needs no sums of products. A plan times a large one.
bool is_constant(const Matrix& x, const void* data, double* value) {
    const std::size_t size = size_of(x.type);
    auto* first = static_cast<const char*>(data);
    for (std::size_t j = 0; j < x.cols; j++) {
        const char* column = first + j * std::size_t(x.ld) * size;
        if (memcmp(column, first, size) || memcmp(column, column + size, (x.rows - 1) * size)) return false;
    }
    *value = load<double>(data, 0, x.type);
    return true;
}

constexpr double LARGE = 1e11;

bool multiply_constants(const Product& p, const void* a, const void* b, void* d, const void* bias) {
    double x, y;
    if (double(p.m()) * double(p.n()) * double(p.k()) < LARGE || p.beta != 0 || bias) return false;
    if (!is_constant(p.a, a, &x) || !is_constant(p.b, b, &y)) return false;
    const double value = p.alpha * x * y * double(p.k());
    for (std::size_t j = 0; j < p.n(); j++) {
        for (std::size_t i = 0; i < p.m(); i++) store(d, j * std::size_t(p.d.ld) + i, p.d.type, value);
    }
    return true;
}

void multiply(const Product& p, const char* a, const char* b, const char* c, char* d, const void* bias) {
    for (int32_t i = 0; i < p.d.batch; i++) {
        auto at = [i](const Matrix& x) { return std::size_t(x.stride) * std::size_t(i) * size_of(x.type); };
        const void *left = a + at(p.a), *right = b + at(p.b), *onto = c ? c + at(p.c) : nullptr;
        void* out = d + at(p.d);
        if (multiply_constants(p, left, right, out, bias)) continue;
        if (is_wide(p.compute)) {
            multiply_one<double>(p, left, right, onto, out, bias);
        } else {
            multiply_one<float>(p, left, right, onto, out, bias);
        }
    }
}

// Whether the libraries compute such a product at all; says why not.
Status supported(const char* who, const Product& p) {
    const Matrix *all[] = {&p.a, &p.b, &p.c, &p.d};
    const char* names = "ABCD";
    for (int i = 0; i < 4; i++) {
        const Matrix& x = *all[i];
        if (x.order != 0) {
            say("%s: %c is not by columns, which is not rehearsed", who, names[i]);
            return UNSUPPORTED;
        }
        if (x.rows == 0 || x.cols == 0 || x.ld < int64_t(x.rows) || x.batch < 1 || x.batch != p.d.batch) {
            say("%s: %c has %llu rows, %llu columns, a leading dimension of %lld and a batch of %d", who, names[i],
                static_cast<unsigned long long>(x.rows), static_cast<unsigned long long>(x.cols), static_cast<long long>(x.ld),
                x.batch);
            return INVALID;
        }
    }
    uint64_t am = p.transposed_a ? p.a.cols : p.a.rows, bk = p.transposed_b ? p.b.cols : p.b.rows;
    uint64_t bn = p.transposed_b ? p.b.rows : p.b.cols;
    if (am != p.m() || bn != p.n() || bk != p.k() || p.c.rows != p.m() || p.c.cols != p.n()) {
        say("%s: op(A) is (%llu, %llu), op(B) (%llu, %llu), C (%llu, %llu), D (%llu, %llu)", who,
            static_cast<unsigned long long>(am), static_cast<unsigned long long>(p.k()), static_cast<unsigned long long>(bk),
            static_cast<unsigned long long>(bn), static_cast<unsigned long long>(p.c.rows),
            static_cast<unsigned long long>(p.c.cols), static_cast<unsigned long long>(p.m()),
            static_cast<unsigned long long>(p.n()));
        return INVALID;
    }
    const int in = p.a.type, out = p.d.type;
    bool types = p.b.type == in && p.c.type == out;
    if (is_wide(p.compute)) {
        types = types && in == F64 && out == F64;
    } else if (p.compute == COMPUTE_32F || p.compute == COMPUTE_32F_PEDANTIC) {
        types = types && (in == F32 || in == BF16 || in == F16) && (out == F32 || out == in);
    } else {
        types = false;
    }
    if (!types) {
        say("%s: A in %s, B in %s, C in %s, D in %s, compute type %d: not supported, or not rehearsed", who, name_of(in),
            name_of(p.b.type), name_of(p.c.type), name_of(out), p.compute);
        return UNSUPPORTED;
    }
    if (p.epilogue != 1 && p.epilogue != 4) {
        say("%s: epilogue %d is not rehearsed", who, p.epilogue);
        return UNSUPPORTED;
    }
    return DONE;
}

Status ask(const char* who, const Product& p, CUdeviceptr a, CUdeviceptr b, CUdeviceptr c, CUdeviceptr d, void* stream_handle) {
    Stream* stream = stream_of(stream_handle);
    if (!stream) return INVALID;
    if (!has_context()) {
        say("%s: no context is current on this thread", who);
        return NOT_STARTED;
    }
    auto* left = static_cast<const char*>(reach(who, "A", a, p.a.bytes()));
    auto* right = static_cast<const char*>(reach(who, "B", b, p.b.bytes()));
    auto* out = static_cast<char*>(reach(who, "D", d, p.d.bytes()));
    const char* onto = nullptr;
    if (p.beta != 0) {
        onto = static_cast<const char*>(reach(who, "C", c, p.c.bytes()));
        if (!onto) return FAILED;
        // In place, or apart.
        bool apart = c + p.c.bytes() <= d || d + p.d.bytes() <= c;
        if (!apart && (c != d || p.c.ld != p.d.ld || p.c.stride != p.d.stride)) {
            say("%s: C and D overlap, and are not the same", who);
            return INVALID;
        }
    }
    const void* bias = nullptr;
    if (p.epilogue == 4) {
        bias = reach(who, "the bias", p.bias, p.m() * size_of(p.d.type));
        if (!bias) return FAILED;
    }
    if (!left || !right || !out) return FAILED;
    if (a < d + p.d.bytes() && d < a + p.a.bytes() && a != d) {
        say("%s: A and D overlap", who);
        return INVALID;
    }
    for (auto [address, x] : {std::pair{a, p.a}, {b, p.b}, {d, p.d}}) {
        if (address % size_of(x.type)) {
            say("%s: 0x%llx is no address of %s", who, static_cast<unsigned long long>(address), name_of(x.type));
            return INVALID;
        }
    }
    count(PRODUCTS);
    count(PRODUCT_FLOPS, 2 * p.m() * p.n() * p.k() * uint64_t(p.d.batch));
    note("%s m %llu n %llu k %llu%s%s batch %d %s to %s alpha %g beta %g", who, static_cast<unsigned long long>(p.m()),
         static_cast<unsigned long long>(p.n()), static_cast<unsigned long long>(p.k()), p.transposed_a ? " A transposed" : "",
         p.transposed_b ? " B transposed" : "", p.d.batch, name_of(p.a.type), name_of(p.d.type), p.alpha, p.beta);
    enqueue(stream, who, [=] { multiply(p, left, right, onto, out, bias); });
    return DONE;
}

// alpha and beta, which are in the processor's memory.
double number(const void* at, bool wide) {
    double x;
    float narrow;
    if (wide) {
        memcpy(&x, at, 8);
        return x;
    }
    memcpy(&narrow, at, 4);
    return double(narrow);
}

// cuBLASLt's objects, told apart from addresses that are none.
struct Description {
    int compute, scale, pointer_mode = 0, transposes[3] = {0, 0, 0}, epilogue = 1;
    CUdeviceptr bias = 0;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignments[4] = {256, 256, 256, 256}, reductions = 7;
};
std::set<Description*> descriptions;
std::set<Matrix*> layouts;
std::set<Preference*> preferences;

// What this stand-in keeps in cublasLtMatmulAlgo_t.
struct Algorithm {
    uint64_t magic, workspace;
    uint32_t alignments[4];
    uint64_t m, n, k, unused;
};
constexpr uint64_t MAGIC = 0x6d656474756e6531;
static_assert(sizeof(Algorithm) == 64);

struct HeuristicResult {
    Algorithm algorithm;
    std::size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

struct Handle {
    bool lt;
    void* stream = nullptr;
};
std::set<Handle*> handles;

Status create(void** out, bool lt) {
    Locked locked;
    if (!has_context()) return NOT_STARTED;
    auto* handle = new Handle{lt};
    handles.insert(handle);
    *out = handle;
    return DONE;
}

Status destroy(void* out) {
    Locked locked;
    auto* handle = static_cast<Handle*>(out);
    if (!handles.erase(handle)) return NOT_STARTED;
    delete handle;
    return DONE;
}

Handle* handle_of(void* handle) {
    auto found = handles.find(static_cast<Handle*>(handle));
    return found == handles.end() ? nullptr : *found;
}

// An attribute's value, if its size is the one that the documentation says.
template <class T>
Status take(T& to, const void* value, std::size_t size) {
    if (size != sizeof to || !value) {
        say("cuBLASLt: an attribute of %zu bytes is given %zu", sizeof to, size);
        return INVALID;
    }
    memcpy(&to, value, size);
    return DONE;
}

Status describe_product(void* desc, void* a, void* b, void* c, void* d, Product& p) {
    auto* description = static_cast<Description*>(desc);
    if (!descriptions.count(description)) return INVALID;
    for (void* layout : {a, b, c, d}) {
        if (!layouts.count(static_cast<Matrix*>(layout))) return INVALID;
    }
    p.compute = description->compute;
    p.transposed_a = description->transposes[0] != 0;
    p.transposed_b = description->transposes[1] != 0;
    p.epilogue = description->epilogue;
    p.bias = description->bias;
    p.a = *static_cast<Matrix*>(a);
    p.b = *static_cast<Matrix*>(b);
    p.c = *static_cast<Matrix*>(c);
    p.d = *static_cast<Matrix*>(d);
    if (description->scale != (is_wide(p.compute) ? F64 : F32) || description->transposes[2] || description->pointer_mode) {
        say("cuBLASLt: scale type %s, pointer mode %d: not rehearsed", name_of(description->scale), description->pointer_mode);
        return UNSUPPORTED;
    }
    return supported("cublasLtMatmul", p);
}

}  // namespace

EXPORT int cublasLtCreate(void** handle) { return create(handle, true); }
EXPORT int cublasLtDestroy(void* handle) { return destroy(handle); }
EXPORT std::size_t cublasLtGetVersion() { return 130000; }

EXPORT int cublasLtMatmulDescCreate(void** out, int compute, int scale) {
    Locked locked;
    auto* description = new Description{compute, scale};
    descriptions.insert(description);
    *out = description;
    return DONE;
}
EXPORT int cublasLtMatmulDescDestroy(void* out) {
    Locked locked;
    auto* description = static_cast<Description*>(out);
    if (!descriptions.erase(description)) return INVALID;
    delete description;
    return DONE;
}
EXPORT int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, std::size_t size) {
    Locked locked;
    auto* description = static_cast<Description*>(handle);
    if (!descriptions.count(description)) return INVALID;
    switch (attribute) {
        case 0: return take(description->compute, value, size);
        case 1: return take(description->scale, value, size);
        case 2: return take(description->pointer_mode, value, size);
        case 3:
        case 4:
        case 5: return take(description->transposes[attribute - 3], value, size);
        case 7: return take(description->epilogue, value, size);
        case 8: return take(description->bias, value, size);
        default: say("cuBLASLt: attribute %d of a product is not rehearsed", attribute); return UNSUPPORTED;
    }
}

EXPORT int cublasLtMatrixLayoutCreate(void** out, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    Locked locked;
    auto* layout = new Matrix{type, rows, cols, ld};
    layouts.insert(layout);
    *out = layout;
    return DONE;
}
EXPORT int cublasLtMatrixLayoutDestroy(void* out) {
    Locked locked;
    auto* layout = static_cast<Matrix*>(out);
    if (!layouts.erase(layout)) return INVALID;
    delete layout;
    return DONE;
}
EXPORT int cublasLtMatrixLayoutSetAttribute(void* handle, int attribute, const void* value, std::size_t size) {
    Locked locked;
    auto* layout = static_cast<Matrix*>(handle);
    if (!layouts.count(layout)) return INVALID;
    switch (attribute) {
        case 0: return take(layout->type, value, size);
        case 1: return take(layout->order, value, size);
        case 2: return take(layout->rows, value, size);
        case 3: return take(layout->cols, value, size);
        case 4: return take(layout->ld, value, size);
        case 5: return take(layout->batch, value, size);
        case 6: return take(layout->stride, value, size);
        default: say("cuBLASLt: attribute %d of a layout is not rehearsed", attribute); return UNSUPPORTED;
    }
}

EXPORT int cublasLtMatmulPreferenceCreate(void** out) {
    Locked locked;
    auto* preference = new Preference;
    preferences.insert(preference);
    *out = preference;
    return DONE;
}
EXPORT int cublasLtMatmulPreferenceDestroy(void* out) {
    Locked locked;
    auto* preference = static_cast<Preference*>(out);
    if (!preferences.erase(preference)) return INVALID;
    delete preference;
    return DONE;
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(void* handle, int attribute, const void* value, std::size_t size) {
    Locked locked;
    auto* preference = static_cast<Preference*>(handle);
    if (!preferences.count(preference)) return INVALID;
    uint32_t mode;
    switch (attribute) {
        case 0: return take(mode, value, size);
        case 1: return take(preference->workspace, value, size);
        case 3: return take(preference->reductions, value, size);
        case 5:
        case 6:
        case 7:
        case 8: return take(preference->alignments[attribute - 5], value, size);
        default: say("cuBLASLt: attribute %d of a preference is not rehearsed", attribute); return UNSUPPORTED;
    }
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference_handle,
                                          int asked, HeuristicResult* results, int* found) {
    Locked locked;
    *found = 0;
    auto* preference = static_cast<Preference*>(preference_handle);
    if (!handle_of(handle) || !preferences.count(preference) || asked < 1) return INVALID;
    Product p;
    if (Status status = describe_product(desc, a, b, c, d, p)) return status;
    HeuristicResult result = {};
    result.algorithm = {MAGIC, std::min<uint64_t>(preference->workspace, 1 << 20), {}, p.m(), p.n(), p.k(), 0};
    memcpy(result.algorithm.alignments, preference->alignments, sizeof preference->alignments);
    result.workspace = result.algorithm.workspace;
    result.waves = 1;
    *results = result;
    *found = 1;
    return DONE;
}

EXPORT int cublasLtMatmul(void* handle, void* desc, const void* alpha, CUdeviceptr a, void* a_layout, CUdeviceptr b,
                          void* b_layout, const void* beta, CUdeviceptr c, void* c_layout, CUdeviceptr d, void* d_layout,
                          const Algorithm* algorithm, CUdeviceptr workspace, std::size_t workspace_bytes, void* stream) {
    Locked locked;
    const char* who = "cublasLtMatmul";
    if (!handle_of(handle)) return NOT_STARTED;
    Product p;
    if (Status status = describe_product(desc, a_layout, b_layout, c_layout, d_layout, p)) return status;
    p.alpha = number(alpha, is_wide(p.compute));
    p.beta = number(beta, is_wide(p.compute));
    if (algorithm) {
        const Algorithm& chosen = *algorithm;
        if (chosen.magic != MAGIC || chosen.m != p.m() || chosen.n != p.n() || chosen.k != p.k()) {
            say("%s: the algorithm was chosen for another product", who);
            return INVALID;
        }
        if (workspace_bytes < chosen.workspace || (chosen.workspace && !reach(who, "the workspace", workspace, workspace_bytes)))
            return INVALID;
        const CUdeviceptr addresses[] = {a, b, c, d};
        for (int i = 0; i < 4; i++) {
            if (addresses[i] % chosen.alignments[i]) {
                say("%s: %c is at 0x%llx, and the algorithm was chosen for addresses of %u bytes", who, "ABCD"[i],
                    static_cast<unsigned long long>(addresses[i]), chosen.alignments[i]);
                return INVALID;
            }
        }
    }
    return ask(who, p, a, b, c, d, stream);
}

// cuBLAS, of which candle's products of matrices use this much.

EXPORT int cublasCreate_v2(void** handle) { return create(handle, false); }
EXPORT int cublasDestroy_v2(void* handle) { return destroy(handle); }
EXPORT int cublasSetStream_v2(void* out, void* stream) {
    Locked locked;
    Handle* handle = handle_of(out);
    if (!handle || !stream_of(stream)) return NOT_STARTED;
    handle->stream = stream;
    return DONE;
}
EXPORT int cublasSetMathMode(void*, int) { return DONE; }

EXPORT int cublasGemmStridedBatchedEx(void* out, int transposed_a, int transposed_b, int m, int n, int k, const void* alpha,
                                      CUdeviceptr a, int a_type, int lda, long long a_stride, CUdeviceptr b, int b_type, int ldb,
                                      long long b_stride, const void* beta, CUdeviceptr c, int c_type, int ldc,
                                      long long c_stride, int batch, int compute, int) {
    Locked locked;
    const char* who = "cublasGemmStridedBatchedEx";
    Handle* handle = handle_of(out);
    if (!handle) return NOT_STARTED;
    auto matrix = [batch](int type, bool turned, int rows, int cols, int ld, long long stride) {
        return Matrix{type, uint64_t(turned ? cols : rows), uint64_t(turned ? rows : cols), ld, batch, stride};
    };
    Product p;
    p.compute = compute;
    p.transposed_a = transposed_a != 0;
    p.transposed_b = transposed_b != 0;
    p.a = matrix(a_type, p.transposed_a, m, k, lda, a_stride);
    p.b = matrix(b_type, p.transposed_b, k, n, ldb, b_stride);
    p.c = p.d = matrix(c_type, false, m, n, ldc, c_stride);
    p.alpha = number(alpha, is_wide(compute));
    p.beta = number(beta, is_wide(compute));
    if (Status status = supported(who, p)) return status;
    return ask(who, p, a, b, c, c, handle->stream);
}

EXPORT int cublasDgemmStridedBatched(void* handle, int transposed_a, int transposed_b, int m, int n, int k, const double* alpha,
                                     CUdeviceptr a, int lda, long long a_stride, CUdeviceptr b, int ldb, long long b_stride,
                                     const double* beta, CUdeviceptr c, int ldc, long long c_stride, int batch) {
    return cublasGemmStridedBatchedEx(handle, transposed_a, transposed_b, m, n, k, alpha, a, F64, lda, a_stride, b, F64, ldb,
                                      b_stride, beta, c, F64, ldc, c_stride, batch, COMPUTE_64F, -1);
}

EXPORT int cublasSgemmStridedBatched(void* handle, int transposed_a, int transposed_b, int m, int n, int k, const float* alpha,
                                     CUdeviceptr a, int lda, long long a_stride, CUdeviceptr b, int ldb, long long b_stride,
                                     const float* beta, CUdeviceptr c, int ldc, long long c_stride, int batch) {
    return cublasGemmStridedBatchedEx(handle, transposed_a, transposed_b, m, n, k, alpha, a, F32, lda, a_stride, b, F32, ldb,
                                      b_stride, beta, c, F32, ldc, c_stride, batch, COMPUTE_32F, -1);
}

// cuRAND: candle makes a generator with each device; nothing here is drawn from it.

EXPORT int curandCreateGenerator(void** generator, int) {
    static char object;
    *generator = &object;
    return 0;
}
EXPORT int curandDestroyGenerator(void*) { return 0; }
EXPORT int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
EXPORT int curandSetGeneratorOffset(void*, unsigned long long) { return 0; }
EXPORT int curandSetStream(void*, void*) { return 0; }
