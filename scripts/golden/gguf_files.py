"""Tiny GGUF files with every block type, and what transformers and the gguf package read in them."""
import json
import shutil

import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf import GGML_QUANT_SIZES, GGUFWriter, TokenType, quants
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

LINEAR = dict(attn_q="self_attn.q_proj", attn_k="self_attn.k_proj", attn_v="self_attn.v_proj", attn_output="self_attn.o_proj",
              ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj", ffn_down="mlp.down_proj")
# Block types of each layer's tensors, in LINEAR's order. K-quants need 256 columns, which only ffn_down has.
LAYERS = [
    (Q.Q4_0, Q.Q8_0, Q.F16, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q4_K),
    (Q.BF16, Q.F32, Q.Q4_1, Q.F16, Q.Q8_0, Q.Q4_0, Q.Q5_K),
    (Q.F16, Q.Q4_0, Q.Q5_1, Q.Q8_0, Q.Q4_1, Q.BF16, Q.Q6_K),
]
HIDDEN, HEADS, KV_HEADS, FFN, HEAD_DIM = 32, 4, 2, 256, 8

# file: architecture, its tokenizer (a folder of tests/golden/tokenizers), layers, a head of its own
FILES = {
    "smollm": ("llama", "smollm2", LAYERS, False),
    "spm": ("llama", "llama2", LAYERS[:1], True),
    "llama_bpe": ("llama", "llama3", LAYERS[1:2], False),
    "qwen2": ("qwen2", "qwen2", LAYERS[2:], False),
}


def random(r, *shape, std):
    return (r.standard_normal(shape) * std).astype(np.float32)


def permute(w, heads):
    """llama.cpp's order of q and k rows: the two halves of a head, which rotary embedding pairs, interleaved."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def k_quant_blocks(r, kind, rows, columns):
    """Random blocks: the gguf package reads K-quants but does not write them."""
    _, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = r.randint(0, 256, size=(rows, columns // 256, block_bytes)).astype(np.uint8)
    scale = lambda value: np.frombuffer((r.uniform(0.5, 1, size=(rows, columns // 256, 1)) * value).astype(np.float16).tobytes(), np.uint8).reshape(rows, columns // 256, 2)
    if kind == Q.Q6_K:  # ql 128, qh 64, scales 16 x i8, d
        blocks[..., 208:210] = scale(5e-5)
    else:  # d, dmin, scales 12, ...
        blocks[..., 0:2], blocks[..., 2:4] = scale(2e-4 if kind == Q.Q5_K else 4e-4), scale(3e-3)
    return blocks.reshape(rows, -1)


def add_tensor(writer, name, w, kind):
    if kind in (Q.F32, Q.F16):
        writer.add_tensor(name, w.astype(np.float32 if kind == Q.F32 else np.float16))
    else:
        writer.add_tensor(name, quants.quantize(w, kind), raw_dtype=kind)


def add_tokenizer(writer, folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = folder / "chat_template.jinja"
    writer.add_chat_template(template.read_text() if template.exists() else config["chat_template"])
    if (folder / "tokenizer.model").exists():
        return add_sentencepiece(writer, folder / "tokenizer.model")
    file = json.loads((folder / "tokenizer.json").read_text())
    special = {t["content"]: t["id"] for t in file["added_tokens"]}
    vocabulary = {**file["model"]["vocab"], **special}
    tokens = sorted(vocabulary, key=vocabulary.get)
    assert [vocabulary[t] for t in tokens] == list(range(len(tokens)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre({"smollm2": "smollm", "llama3": "llama-bpe", "qwen2": "qwen2"}[folder.name])
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if t in special else TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(m) for m in file["model"]["merges"]])
    for key, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
                     ("unk_token", writer.add_unk_token_id), ("pad_token", writer.add_pad_token_id)):
        if key in config:
            add(vocabulary[config[key]])
    writer.add_add_bos_token(folder.name == "llama3")
    return len(tokens)


def add_sentencepiece(writer, path):
    import sentencepiece
    spm = sentencepiece.SentencePieceProcessor(model_file=str(path))
    kind = lambda i: (TokenType.UNKNOWN if spm.is_unknown(i) else TokenType.CONTROL if spm.is_control(i)
                      else TokenType.BYTE if spm.is_byte(i) else TokenType.NORMAL)
    n = spm.get_piece_size()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([spm.id_to_piece(i) for i in range(n)])
    writer.add_token_scores([spm.get_score(i) for i in range(n)])
    writer.add_token_types([kind(i) for i in range(n)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    return n


def write(path, tokenizers, seed):
    architecture, tokenizer, layers, own_head = FILES[path.stem]
    r = np.random.RandomState(seed)
    writer = GGUFWriter(str(path), architecture)
    writer.add_name(f"golden {path.stem}")
    writer.add_block_count(len(layers))
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if architecture == "llama":
        writer.add_rope_dimension_count(HEAD_DIM)
    vocab = add_tokenizer(writer, tokenizers / tokenizer)
    writer.add_vocab_size(vocab)
    add_tensor(writer, "token_embd.weight", random(r, vocab, HIDDEN, std=0.5), Q.Q8_0)
    add_tensor(writer, "output_norm.weight", 1 + random(r, HIDDEN, std=0.1), Q.F32)
    if own_head:
        add_tensor(writer, "output.weight", random(r, vocab, HIDDEN, std=0.2), Q.F16)
    shapes = dict(attn_q=(HEADS * HEAD_DIM, HIDDEN), attn_k=(KV_HEADS * HEAD_DIM, HIDDEN), attn_v=(KV_HEADS * HEAD_DIM, HIDDEN),
                  attn_output=(HIDDEN, HEADS * HEAD_DIM), ffn_gate=(FFN, HIDDEN), ffn_up=(FFN, HIDDEN), ffn_down=(HIDDEN, FFN))
    heads = dict(attn_q=HEADS, attn_k=KV_HEADS)
    for i, kinds in enumerate(layers):
        for norm in ("attn_norm", "ffn_norm"):
            add_tensor(writer, f"blk.{i}.{norm}.weight", 1 + random(r, HIDDEN, std=0.1), Q.F32)
        for (name, shape), kind in zip(shapes.items(), kinds):
            if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
                writer.add_tensor(f"blk.{i}.{name}.weight", k_quant_blocks(r, kind, *shape), raw_dtype=kind)
                continue
            w = random(r, *shape, std=shape[1] ** -0.5)
            if architecture == "llama" and name in heads:
                w = permute(w, heads[name])
            add_tensor(writer, f"blk.{i}.{name}.weight", w, kind)
            if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                add_tensor(writer, f"blk.{i}.{name}.bias", random(r, shape[0], std=0.2), Q.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return vocab


def expected(path, vocab):
    """All of q and k (the permuted ones), four rows of every other tensor, and logits, as transformers reads the file."""
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.from_numpy(np.random.RandomState(7).randint(3, vocab, size=(1, 12)))
    with torch.no_grad():
        tensors = {"input_ids": ids[0], "logits": model(ids).logits[0]}
    for name, w in model.state_dict().items():
        if w.dim() == 1 or "q_proj" in name or "k_proj" in name:
            tensors[f"whole.{name}"] = w
        elif not (name == "lm_head.weight" and model.config.tie_word_embeddings):
            tensors[f"rows.{name}"] = w[[0, 1, w.shape[0] // 2, w.shape[0] - 1]]
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, path.with_suffix(".safetensors"))
    config = model.config
    return dict(hidden_size=config.hidden_size, intermediate_size=config.intermediate_size, num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads, num_key_value_heads=config.num_key_value_heads, vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings, rms_norm_eps=config.rms_norm_eps,
                rope_theta=config.rope_parameters["rope_theta"], tie_word_embeddings=config.tie_word_embeddings, model_type=config.model_type)


def make(golden):
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder = golden / "gguf"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = {}
    for i, name in enumerate(FILES):
        path = folder / f"{name}.gguf"
        vocab = write(path, golden / "tokenizers", 40 + i)
        facts[name] = dict(tokenizer=FILES[name][1], config=expected(path, vocab))
        print("gguf", name, flush=True)
    (folder / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")
