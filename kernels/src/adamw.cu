// One AdamW step of many parameters: the twin of adamw.rs, bit for bit.
#include "cuda/adamw.cuh"

template <class Form, class G>
__device__ void update(const Parameter& at, float scale, u64 from, u32 all) {
    typename Form::Stored* const p = at_address<typename Form::Stored>(at.p) + from;
    float* const master = at.master ? at_address<float>(at.master) + from : nullptr;
    const G* const g = at_address<const G>(at.g) + from;
    float *const m = at_address<float>(at.m) + from, *const v = at_address<float>(at.v) + from;
    const Numbers numbers = at.numbers;
    for (u32 i = threadIdx.x * PACK; i < all; i += blockDim.x * PACK) {
        const u32 count = pack_count(i, all);
        float weights[PACK], gradient[PACK], first[PACK], second[PACK];
        Form::read(p + i, master ? master + i : nullptr, count, weights);
        load(g + i, count, gradient);
        load(m + i, count, first);
        load(v + i, count, second);
#pragma unroll
        for (u32 j = 0; j < PACK; j++) step(weights[j], gradient[j], first[j], second[j], scale, numbers);
        store(m + i, count, first);
        store(v + i, count, second);
        Form::write(p + i, master ? master + i : nullptr, at.key, from + i, count, weights);
    }
}

KERNEL_BLOCKS(adamw, 256, 3, (const Parameter* table, u32 parameters)) {
    for_parameters(table, parameters, [](auto kind, const Parameter& at, float scale, u64 first, u32 all) {
        update<typename decltype(kind)::Form, typename decltype(kind)::G>(at, scale, first, all);
    });
}
