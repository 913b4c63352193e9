// A program that uses the stand-in as a program uses CUDA, rightly and wrongly: one case a run. See tests/cuda_driver.rs.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

typedef uint64_t Address;
extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuMemAllocAsync(Address*, std::size_t, void*);
int cuMemFreeAsync(Address, void*);
int cuMemHostAlloc(void**, std::size_t, unsigned);
int cuMemcpyHtoDAsync_v2(Address, const void*, std::size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, Address, std::size_t, void*);
int cublasLtCreate(void**);
int cublasLtMatmulDescCreate(void**, int, int);
int cublasLtMatmulDescSetAttribute(void*, int, const void*, std::size_t);
int cublasLtMatrixLayoutCreate(void**, int, uint64_t, uint64_t, int64_t);
int cublasLtMatmulPreferenceCreate(void**);
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, std::size_t);
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int*);
int cublasLtMatmul(void*, void*, const void*, Address, void*, Address, void*, const void*, Address, void*, Address, void*,
                   const void*, Address, std::size_t, void*);
}

namespace {

void must(int status, const char* what) {
    if (status) {
        printf("%s: status %d\n", what, status);
        exit(1);
    }
}
#define MUST(call) must(call, #call)

// fill_f32 and partial_squares of elementwise.cu as nvcc writes them; a kernel of candle's; and the first one with other parameters.
const char OURS[] =
    ".version 9.0\n.visible .entry fill_f32(\n\t.param .u64 a,\n\t.param .f32 value,\n\t.param .u64 n\n)\n"
    ".maxntid 256, 1, 1\n{\n}\n.visible .entry partial_squares(\n\t.param .u64 table,\n\t.param .u32 tensors,\n"
    "\t.param .u64 partials\n)\n.maxntid 256, 1, 1\n{\n}\n";
const char CANDLES[] =
    ".version 9.0\n.visible .entry softmax_f32(\n\t.param .u64 a,\n\t.param .u64 .ptr .align 1 b\n)\n{\n}\n"
    ".visible .entry ucopy_f32(\n\t.param .u64 n,\n\t.param .u64 d,\n\t.param .u64 i,\n\t.param .u64 a,\n\t.param .u64 b\n)\n{\n}\n";
const char STALE[] =
    ".version 9.0\n.visible .entry fill_f32(\n\t.param .u64 a,\n\t.param .f32 value,\n\t.param .u64 n\n)\n"
    ".maxntid 256, 1, 1\n{\n}\n.visible .entry fill_bf16(\n\t.param .u64 a,\n\t.param .u32 value,\n\t.param .u64 n\n)\n"
    ".maxntid 256, 1, 1\n{\n}\n";

void* stream = nullptr;

void start() {
    void* context;
    MUST(cuInit(0));
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuStreamCreate(&stream, 1));
}

void* kernel(const char* ptx, const char* name) {
    void *module, *function;
    MUST(cuModuleLoadData(&module, ptx));
    MUST(cuModuleGetFunction(&function, module, name));
    return function;
}

Address allocate(std::size_t bytes) {
    Address address;
    MUST(cuMemAllocAsync(&address, bytes, stream));
    return address;
}

template <class T>
Address upload(const std::vector<T>& list, std::size_t shift = 0) {
    Address address = allocate(list.size() * sizeof(T) + shift) + shift;
    MUST(cuMemcpyHtoDAsync_v2(address, list.data(), list.size() * sizeof(T), stream));
    return address;
}

template <class T>
std::vector<T> download(Address address, std::size_t n, void* on = stream) {
    std::vector<T> list(n);
    MUST(cuMemcpyDtoHAsync_v2(list.data(), address, n * sizeof(T), on));
    return list;
}

int fill(Address address, float value, uint64_t n, void* on = stream) {
    static void* const function = kernel(OURS, "fill_f32");
    void* params[] = {&address, &value, &n};
    return cuLaunchKernel(function, 2, 1, 1, 256, 1, 1, 0, on, params, nullptr);
}

void fills() {
    Address a = allocate(4 * 123);
    MUST(fill(a, 1.5, 100));
    std::vector<float> list = download<float>(a, 123);
    for (int i = 0; i < 123; i++) {
        bool right = i < 100 ? list[i] == 1.5 : std::isnan(list[i]);
        if (!right) printf("number %d is %g\n", i, double(list[i]));
    }
    MUST(cuMemFreeAsync(a, stream));
}

// A byte beyond the end, in the last number's neighbour, is within what alignment adds; a page beyond is none of ours.
void writes_beyond(uint64_t n) {
    Address a = allocate(4 * 123);
    fill(a, 1.5, n);
    MUST(cuStreamSynchronize(stream));
}

void uses_freed() {
    Address a = allocate(400), b = allocate(400);
    MUST(cuMemFreeAsync(a, stream));
    printf("launch %d, ", fill(a, 1.5, 100));
    printf("free %d, ", cuMemFreeAsync(a, stream));
    float x;
    printf("copy %d, ", cuMemcpyDtoHAsync_v2(&x, a, 4, stream));
    printf("copy beyond %d\n", cuMemcpyDtoHAsync_v2(&x, b + 398, 4, stream));
}

// The squares of what lies at an address that a table holds.
void follows_a_table(bool freed_before) {
    Address a = upload(std::vector<float>(100, 0.5f)), partials = allocate(8);
    if (freed_before) MUST(cuMemFreeAsync(a, stream));
    Address table = upload(std::vector<uint64_t>{a, 100, 1, 0});
    unsigned tensors = 1;
    void* params[] = {&table, &tensors, &partials};
    MUST(cuLaunchKernel(kernel(OURS, "partial_squares"), 1, 1, 1, 256, 1, 1, 0, stream, params, nullptr));
    if (!freed_before) MUST(cuMemFreeAsync(a, stream));
    printf("%g\n", download<double>(partials, 1)[0]);
}

void passes_a_processors_address() {
    std::vector<float> here(100);
    printf("launch %d\n", fill(Address(here.data()), 1.5, 100));
}

void reads_on_the_processor() {
    volatile float* a = reinterpret_cast<float*>(allocate(400));
    printf("%g\n", double(*a));
}

void launches_wrongly() {
    Address a = allocate(400);
    void* function = kernel(OURS, "fill_f32");
    float value = 1;
    uint64_t n = 100;
    void* params[] = {&a, &value, &n};
    printf("blocks of 257: %d, ", cuLaunchKernel(function, 1, 1, 1, 257, 1, 1, 0, stream, params, nullptr));
    printf("no blocks: %d, ", cuLaunchKernel(function, 0, 1, 1, 32, 1, 1, 0, stream, params, nullptr));
    printf("shared memory: %d\n", cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 50000, stream, params, nullptr));
}

void launches_candles() {
    Address a = upload<float>({1, 2, 3}), b = allocate(12), none = 0;
    uint64_t n = 3, dims = 0;
    void* copies[] = {&n, &dims, &none, &a, &b};
    MUST(cuLaunchKernel(kernel(CANDLES, "ucopy_f32"), 1, 1, 1, 1024, 1, 1, 0, stream, copies, nullptr));
    printf("ucopy gives %g, ", double(download<float>(b, 3)[2]));
    void* params[] = {&a, &b};
    printf("softmax: %d\n", cuLaunchKernel(kernel(CANDLES, "softmax_f32"), 1, 1, 1, 32, 1, 1, 0, stream, params, nullptr));
}

// What is in pinned memory when the copy is asked for, and what when somebody waits.
void reuses_pinned_memory() {
    void* pinned;
    MUST(cuMemHostAlloc(&pinned, 4, 0));
    float x = 1, y = 2;
    memcpy(pinned, &x, 4);
    Address a = allocate(4);
    MUST(cuMemcpyHtoDAsync_v2(a, pinned, 4, stream));
    memcpy(pinned, &y, 4);
    printf("%g\n", double(download<float>(a, 1)[0]));
}

void uses_two_streams(bool waits) {
    void *other, *event;
    MUST(cuStreamCreate(&other, 1));
    MUST(cuEventCreate(&event, 2));
    Address a = upload<float>({1});
    MUST(cuStreamSynchronize(stream));
    MUST(fill(a, 2, 1, other));
    MUST(cuEventRecord(event, other));
    if (waits) MUST(cuStreamWaitEvent(stream, event, 0));
    printf("%g\n", double(download<float>(a, 1)[0]));
}

void takes_too_much() {
    Address a;
    printf("12 MiB: %d, ", cuMemAllocAsync(&a, 12 << 20, stream));
    printf("the same again: %d\n", cuMemAllocAsync(&a, 12 << 20, stream));
}

// Column-major products, each number of a layout different: against its definition.
float number(int i) { return std::sin(float(i) * 0.7f) + 0.1f; }

struct Lt {
    void *handle, *preference;
    Address workspace;
    Lt() {
        MUST(cublasLtCreate(&handle));
        MUST(cublasLtMatmulPreferenceCreate(&preference));
        uint64_t bytes = 1 << 20;
        MUST(cublasLtMatmulPreferenceSetAttribute(preference, 1, &bytes, 8));
        workspace = allocate(bytes);
    }
    void aligned(uint32_t to) {
        for (int attribute = 5; attribute <= 8; attribute++)
            MUST(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &to, 4));
    }
};

int multiply(Lt& lt, int m, int n, int k, bool ta, bool tb, float alpha, float beta, std::size_t shift, double* worst) {
    const int extra = 3;
    const int a_rows = ta ? k : m, a_cols = ta ? m : k, b_rows = tb ? n : k, b_cols = tb ? k : n;
    const int lda = a_rows + extra, ldb = b_rows + extra + 1, ldc = m + extra + 2;
    auto numbers = [](int n, int from) {
        std::vector<float> list(n);
        for (int i = 0; i < n; i++) list[i] = number(from + i);
        return list;
    };
    std::vector<float> a = numbers(lda * a_cols, 1), b = numbers(ldb * b_cols, 5000), c = numbers(ldc * n, 9000);
    Address da = upload(a, shift), db = upload(b, shift), dc = upload(c, shift);
    void *desc, *layout_a, *layout_b, *layout_c;
    MUST(cublasLtMatmulDescCreate(&desc, 68, 0));
    int transposes[] = {ta, tb};
    MUST(cublasLtMatmulDescSetAttribute(desc, 3, &transposes[0], 4));
    MUST(cublasLtMatmulDescSetAttribute(desc, 4, &transposes[1], 4));
    MUST(cublasLtMatrixLayoutCreate(&layout_a, 0, a_rows, a_cols, lda));
    MUST(cublasLtMatrixLayoutCreate(&layout_b, 0, b_rows, b_cols, ldb));
    MUST(cublasLtMatrixLayoutCreate(&layout_c, 0, m, n, ldc));
    uint64_t result[12];
    int found;
    MUST(cublasLtMatmulAlgoGetHeuristic(lt.handle, desc, layout_a, layout_b, layout_c, layout_c, lt.preference, 1, result, &found));
    int status = cublasLtMatmul(lt.handle, desc, &alpha, da, layout_a, db, layout_b, &beta, dc, layout_c, dc, layout_c, result,
                                lt.workspace, 1 << 20, stream);
    if (status) return status;
    std::vector<float> d = download<float>(dc, c.size());
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < ldc; i++) {
            double expected = c[i + j * ldc];
            if (i < m) {
                double sum = 0;
                for (int l = 0; l < k; l++)
                    sum += double(a[ta ? l + i * lda : i + l * lda]) * double(b[tb ? j + l * ldb : l + j * ldb]);
                expected = alpha * sum + beta * expected;
            }
            *worst = std::fmax(*worst, std::fabs(expected - double(d[i + j * ldc])));
        }
    }
    return 0;
}

void multiplies() {
    Lt lt;
    lt.aligned(4);
    double worst = 0;
    for (int kind = 0; kind < 4; kind++) {
        for (float beta : {0.0f, 0.5f}) {
            MUST(multiply(lt, 5, 7, 123, kind & 1, kind & 2, -1.5, beta, 4, &worst));
            MUST(multiply(lt, 130, 21, 30, kind & 1, kind & 2, 1, beta, 8, &worst));
        }
    }
    // Enough for two threads.
    MUST(multiply(lt, 400, 300, 310, false, true, 1, 0, 4, &worst));
    printf("%s\n", worst < 1e-3 ? "as defined" : std::to_string(worst).c_str());
}

void multiplies_unaligned() {
    Lt lt;
    lt.aligned(16);
    double worst = 0;
    printf("aligned: %d, ", multiply(lt, 5, 7, 12, false, false, 1, 0, 16, &worst));
    printf("not: %d\n", multiply(lt, 5, 7, 12, false, false, 1, 0, 4, &worst));
}

const std::map<std::string, std::function<void()>> CASES = {
    {"fills", fills},
    {"writes-beside", [] { writes_beyond(124); }},
    {"writes-far-beyond", [] { writes_beyond(4000); }},
    {"uses-freed", uses_freed},
    {"follows-a-table", [] { follows_a_table(false); }},
    {"follows-a-table-to-freed", [] { follows_a_table(true); }},
    {"passes-a-processors-address", passes_a_processors_address},
    {"reads-on-the-processor", reads_on_the_processor},
    {"launches-wrongly", launches_wrongly},
    {"launches-candles", launches_candles},
    {"is-stale", [] { kernel(STALE, "fill_f32"); }},
    {"reuses-pinned-memory", reuses_pinned_memory},
    {"uses-two-streams", [] { uses_two_streams(false); }},
    {"uses-two-streams-in-order", [] { uses_two_streams(true); }},
    {"takes-too-much", takes_too_much},
    {"multiplies", multiplies},
    {"multiplies-unaligned", multiplies_unaligned},
};

}  // namespace

int main(int count, char** words) {
    auto found = count == 2 ? CASES.find(words[1]) : CASES.end();
    if (found == CASES.end()) return 64;
    start();
    found->second();
    fflush(stdout);
    return 0;
}
