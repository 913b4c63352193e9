"""Small tokenizers of the four kinds, chat templates of four families, and what transformers makes of texts and conversations."""
import json
import shutil
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

CORPUS = Path(__file__).with_name("corpus.txt")
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# What a tokenizer gets wrong first: digits, white space of every kind, composed and decomposed letters,
# characters outside the vocabulary, contractions in both cases, and control tokens inside a text.
TEXTS = [
    "", " ", "  ", "\n", "The patient has chest pain.", " leading space", "trailing space ", "two  and   three spaces",
    "1234567890 and 3.14, 2021-06-30", "500mg x2 (5%)", "a\tb\nc\n\nd\n\n\ne", "line one\r\nline two\r\n", " \n \n ",
    "🩺💊 and 👩‍⚕️", "café naïve", "cafe\u0301 decomposed", "β-blocker ≥5 µg", "中文医学", "Ünïcödé ſ ﬁ", "non\u00a0breaking",
    "zero\u200bwidth", "don't DON'T we've I'LL she'd it's", "ALLCAPS CamelCase snake_case", "x=1;y=[2,3]//z", "aaaaaaaaaaaaaaaa",
    "▁ lower one eighth block ▁▁", "...!!!???", "Human: \nWhat?\n\nAssistant: \nYes.",
    "<|im_start|>user\nHi there<|im_end|>\n", "before<|im_end|>after <|im_end|> spaced", "<s>[INST] Hi [/INST] yes </s>",
    "yes</s> no", "a<unk>b", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|endoftext|>", "<0x41> <0x0A>",
]

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
CONVERSATIONS = [
    [{"role": "user", "content": "Does aspirin lower the risk?"}, {"role": "assistant", "content": "yes"}],
    [SYSTEM, {"role": "user", "content": "What is the dose of metformin?"},
     {"role": "assistant", "content": "500 mg twice a day.\nNo more than 2000 mg."}],
    [{"role": "user", "content": "The patient has a fever of 39.5.\n\nWhat now?"}, {"role": "assistant", "content": "Blood was taken for culture."},
     {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "The antibiotic was started on day 1."}],
    [SYSTEM, {"role": "user", "content": "β-blocker?"}, {"role": "assistant", "content": "Yes: 🩺."},
     {"role": "user", "content": "  why  "}, {"role": "assistant", "content": "maybe"},
     {"role": "user", "content": "Human: \nAssistant: \nyes"}, {"role": "assistant", "content": "no [/INST] no"}],
]

# Each template twice: as it is published, and with {% generation %} around what the model has to say (the answer
# and the token that ends it), which is how transformers knows the assistant's tokens.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CHATML_MARKED = CHATML.replace(
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
    "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}{% endif %}{{'\n'}}")
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
LLAMA2_MARKED = LLAMA2.replace(
    "{{ ' '  + content.strip() + ' ' + eos_token }}",
    "{% generation %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endgeneration %}")
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
LLAMA3_MARKED = LLAMA3.replace(
    "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}", "'<|end_header_id|>\n\n' %}").replace(
    "{{ content }}",
    "{{ content }}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}")
QWEN2 = """{%- if tools %}
    {{- raise_exception('no tools here') }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
QWEN2_MARKED = QWEN2.replace(
    "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}",
    """        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.role == "assistant" %}{% generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
        {%- else %}{{- message.content + '<|im_end|>' }}{%- endif %}
        {{- '\\n' }}""")


def byte_level(pre_tokenizer, special, first, vocab_size):
    """A byte-level BPE trained on the corpus; its control tokens before the vocabulary (SmolLM2) or after it (Llama 3, Qwen2)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train([str(CORPUS)], trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special if first else [], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def split_by(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def smollm2():
    tokenizer = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
                           ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], True, 400)
    return tokenizer, dict(bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>", pad_token="<|im_end|>")


def llama3():
    tokenizer = byte_level(split_by(SPLIT.replace("DIGITS", "{1,3}")),
                           ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], False, 390)
    tokenizer.model.ignore_merges = True
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", bos)])])
    return tokenizer, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def qwen2():
    tokenizer = byte_level(split_by(SPLIT.replace("DIGITS", "")), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], False, 390)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")


def train_sentencepiece(path):
    """A SentencePiece BPE with the options LLaMA-2's tokenizer.model was trained with."""
    with open(path, "wb") as f:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS.read_text().splitlines()), model_writer=f, model_type="bpe", vocab_size=480,
            byte_fallback=True, split_digits=True, add_dummy_prefix=True, remove_extra_whitespaces=False,
            normalization_rule_name="identity", allow_whitespace_only_pieces=True, character_coverage=0.99995,
            unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)


def as_published(tokenizer):
    """The same vocabulary in the form of LLaMA-2's published tokenizer.json: a normalizer prepends the space, and does so again after every control token."""
    result = Tokenizer.from_str(tokenizer.to_str())
    result.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    file = json.loads(result.to_str())
    file["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(file))


def texts(tokenizer):
    rows = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        rows.append(dict(text=text, ids=ids, ids_with_special=tokenizer.encode(text),
                         decoded=tokenizer.decode(ids, clean_up_tokenization_spaces=False),
                         decoded_without_special=tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
    return rows


def conversations(tokenizer, marked):
    rows = []
    for messages in CONVERSATIONS:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        assert rendered == tokenizer.apply_chat_template(messages, tokenize=False, chat_template=marked)
        out = tokenizer.apply_chat_template(messages, chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        assert out["input_ids"] == tokenizer.encode(rendered, add_special_tokens=False)
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        rows.append(dict(messages=messages, rendered=rendered, ids=out["input_ids"], assistant_mask=out["assistant_masks"],
                         prompt=prompt, prompt_ids=tokenizer.encode(prompt, add_special_tokens=False)))
    return rows


def write(folder, tokenizer_config, template, marked, template_file=False):
    config = dict(tokenizer_config, clean_up_tokenization_spaces=False, model_max_length=2048)
    if template_file:  # transformers 5 keeps the template in a file of its own
        (folder / "chat_template.jinja").write_text(template)
    else:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, dict(vocab_size=len(tokenizer), texts=texts(tokenizer), conversations=conversations(tokenizer, marked))


def save(folder, golden):
    (folder / "golden.json").write_text(json.dumps(golden, ensure_ascii=True) + "\n")


def make(golden):
    root = golden / "tokenizers"
    shutil.rmtree(root, ignore_errors=True)
    for name, maker, template, marked in [("smollm2", smollm2, CHATML, CHATML_MARKED), ("llama3", llama3, LLAMA3, LLAMA3_MARKED),
                                          ("qwen2", qwen2, QWEN2, QWEN2_MARKED)]:
        folder = root / name
        folder.mkdir(parents=True)
        tokenizer, names = maker()
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        _, facts = write(folder, dict(tokenizer_class="PreTrainedTokenizerFast", **names), template, marked, template_file=name == "llama3")
        save(folder, facts)
        print("tokenizer", name, facts["vocab_size"], flush=True)

    folder = root / "llama2"
    folder.mkdir()
    train_sentencepiece(folder / "tokenizer.model")
    names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True, add_eos_token=False, legacy=False)
    tokenizer, facts = write(folder, dict(tokenizer_class="LlamaTokenizer", **names), LLAMA2, LLAMA2_MARKED)
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for row in facts["texts"]:
        row["ids_sentencepiece"] = spm.encode(row["text"])  # reads control tokens in a text as plain characters
    save(folder, facts)
    print("tokenizer llama2", facts["vocab_size"], flush=True)

    folder = root / "llama2_json"
    folder.mkdir()
    as_published(tokenizer.backend_tokenizer).save(str(folder / "tokenizer.json"), pretty=False)
    _, facts = write(folder, dict(tokenizer_class="PreTrainedTokenizerFast", **names), LLAMA2, LLAMA2_MARKED)
    save(folder, facts)
    print("tokenizer llama2_json", facts["vocab_size"], flush=True)
