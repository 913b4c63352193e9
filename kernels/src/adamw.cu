// One AdamW step over a flat list: the twin of adamw.rs.
#include "cuda/adamw.cuh"

template <class Form, class G>
__device__ void update(typename Form::Stored* p, float* master, const G* g, float* m, float* v, const Numbers& numbers,
                       u64 key, u64 n) {
    for_flat(n, [=](u64 i, u32 count) {
        float weights[PACK], gradient[PACK], first[PACK], second[PACK];
        Form::read(p + i, master ? master + i : nullptr, count, weights);
        load(g + i, count, gradient);
        load(m + i, count, first);
        load(v + i, count, second);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) step(weights[j], gradient[j], first[j], second[j], numbers);
        store(m + i, count, first);
        store(v + i, count, second);
        Form::write(p + i, master ? master + i : nullptr, key, i, count, weights);
    });
}

#define ADAMW(Form, G, names)                                                                                       \
    KERNEL(adamw_##names, 256,                                                                                      \
           (Form::Stored * p, float* master, const G* g, float* m, float* v, NUMBERS_PARAMETERS, u64 key, u64 n)) { \
        if (device_scale && *device_scale != *device_scale) return;                                                  \
        update<Form>(p, master, g, m, v, NUMBERS, key, n);                                                          \
    }
ADAMW(Exact, float, exact_f32)
ADAMW(Exact, bf16, exact_bf16)
ADAMW(Master, float, master_f32)
ADAMW(Master, bf16, master_bf16)
ADAMW(Stochastic, float, stochastic_f32)
ADAMW(Stochastic, bf16, stochastic_bf16)
