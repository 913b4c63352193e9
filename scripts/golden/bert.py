"""A tiny BERT and a tiny RoBERTa: their hidden states as transformers has them, and BERTScore as the bert_score package has it.

usage: bert.py      (writes tests/golden/bert)

Needs bert_score and a transformers that it runs with, which is not the one of requirements.txt (5 has no
`build_inputs_with_special_tokens` for every tokenizer): an environment of its own with torch, bert_score==0.3.13,
transformers==4.57.1, tokenizers==0.22.1 and what they import.
"""
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

if __name__ == "__main__":
    # This folder's statistics.py would stand in for Python's own.
    sys.path.pop(0)

import numpy
import torch
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.dont_write_bytecode = True
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

CORPUS = Path(__file__).with_name("corpus.txt")
LONG = "the patient was treated with aspirin and the dose was raised on day 3 because of chest pain " * 3
# (gold, written). The third and fourth have an empty side; the fifth is longer than any of the models reads.
PAIRS = [
    ("The patient has chest pain.", "Patient reports pain in the chest."),
    ("No acute effusion. Heart size is normal.", "heart size normal, no effusion"),
    ("No acute effusion.", ""),
    ("", "No acute effusion."),
    (LONG, LONG.upper() + "and then"),
    ("aspirin 81 mg", LONG),
    ("β-blocker ≥5 µg, café naïve", "β-blocker  cafe\u0301 \t 中文医学"),
    ("🩺💊 dose [SEP] <s> [MASK]", "  dose 🩺\n"),
    ("\x1cThe dose\u00a0", " the dose"),
    ("unchanged", "unchanged"),
]


def words(folder, size):
    """A WordPiece vocabulary, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train([str(CORPUS)], trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")])
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    in_order = sorted(ids, key=ids.get)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in in_order))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 24,
              "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return len(ids)


def byte_pairs(folder, size):
    """A byte-level BPE vocabulary, as RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    tokenizer.train([str(CORPUS)], trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 64, "add_prefix_space": False, "bos_token": "<s>",
              "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
              "mask_token": "<mask>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer.get_vocab_size()


def slow_files(folder, work):
    """The vocabulary as the slow tokenizers read it, which are bert_score's default."""
    shutil.copytree(folder, work, dirs_exist_ok=True)
    json_ = json.loads((folder / "tokenizer.json").read_text())
    if json_["model"]["type"] == "BPE":
        (work / "vocab.json").write_text(json.dumps(json_["model"]["vocab"]))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in json_["model"]["merges"]]
        (work / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (work / "tokenizer.json").unlink()


def randomised(model):
    """Every tensor random, biases and norms too: none may be left out unnoticed."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            is_norm = "LayerNorm.weight" in name
            tensor.copy_(1.0 + 0.2 * noise if is_norm else (1.0 if "embeddings" in name else 0.12) * noise)
    return model.eval()


def hidden_states(folder, work, texts):
    from bert_score.utils import sent_encode
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work, use_fast=False)
    model = AutoModel.from_pretrained(folder).eval()
    tensors, ids_of = {}, []
    for index, text in enumerate(texts):
        ids = sent_encode(tokenizer, text)
        ids_of.append(ids)
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        tensors[f"hidden.{index}"] = torch.cat(states).numpy().astype(numpy.float32)
    return tensors, ids_of


def scores(work, layers, baseline):
    from bert_score import BERTScorer

    cases = []
    for layer in (layers, 1, 0):
        for idf in (False, True):
            for rescale in (False, True):
                gold, written = [list(side) for side in zip(*PAIRS)]
                scorer = BERTScorer(
                    model_type=str(work), num_layers=layer, idf=idf, idf_sents=gold if idf else None, device="cpu",
                    rescale_with_baseline=rescale, baseline_path=str(baseline) if rescale else None,
                    lang="en" if rescale else None)
                # One pair at a time: the package's padding takes part in the matching.
                values = torch.stack(scorer.score(written, gold, batch_size=1), dim=1)
                cases.append({"layer": layer, "idf": idf, "rescaled": rescale, "hash": scorer.hash.replace(str(work), "MODEL"),
                              "scores": values.double().tolist()})
    return cases


def make(golden):
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaModel

    warnings.filterwarnings("ignore")
    root = golden / "bert"
    shutil.rmtree(root, ignore_errors=True)
    texts = sorted({text for pair in PAIRS for text in pair})
    shapes = {
        # With the heads of pre-training, whose names begin with `bert.`.
        "bert": lambda v: BertForMaskedLM(BertConfig(
            vocab_size=v, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
            max_position_embeddings=32, hidden_act="gelu")),
        "roberta": lambda v: RobertaModel(RobertaConfig(
            vocab_size=v + 3, hidden_size=20, num_hidden_layers=4, num_attention_heads=5, intermediate_size=36,
            max_position_embeddings=66, hidden_act="gelu_new", layer_norm_eps=1e-5, type_vocab_size=1,
            pad_token_id=1, bos_token_id=0, eos_token_id=2), add_pooling_layer=False),
    }
    for name, shape in shapes.items():
        folder = root / name
        folder.mkdir(parents=True)
        size = (words if name == "bert" else byte_pairs)(folder, 340)
        torch.manual_seed(7)
        model = randomised(shape(size))
        model.save_pretrained(folder, safe_serialization=True)
        for extra in folder.glob("generation_config.json"):
            extra.unlink()
        layers = model.config.num_hidden_layers
        baseline = folder / "baseline.tsv"
        rows = [f"{layer},{0.31 + 0.07 * layer:.7f},{0.29 + 0.05 * layer:.7f},{0.3 + 0.06 * layer:.7f}" for layer in range(layers + 1)]
        baseline.write_text("LAYER,P,R,F\n" + "\n".join(rows) + "\n")
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch) / name
            slow_files(folder, work)
            tensors, ids = hidden_states(folder, work, texts)
            cases = scores(work, layers, baseline)
        save_file(tensors, folder / "hidden.safetensors")
        facts = {"texts": texts, "ids": ids, "pairs": PAIRS, "cases": cases}
        (folder / "golden.json").write_text(json.dumps(facts, ensure_ascii=True, indent=1) + "\n")


if __name__ == "__main__":
    make(Path(__file__).resolve().parents[2] / "tests" / "golden")
