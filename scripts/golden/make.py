"""Writes the golden fixtures under tests/golden. README.md names every file.

usage: make.py [models] [methods] [tokenizers] [gguf] [smollm2] [nf4]      (default: all)
       make.py adamw_8bit                                                 (needs bitsandbytes: see adamw_8bit.py)
"""
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"


def main():
    import adamw_8bit
    import algebra
    import gguf_files
    import methods
    import models
    import nf4
    import smollm2
    import tokenizer_files

    makers = {
        "models": models.make,
        "methods": methods.make,
        "tokenizers": tokenizer_files.make,
        "gguf": gguf_files.make,
        "smollm2": smollm2.make,
        "nf4": nf4.make,
        "algebra": algebra.make,
    }
    asked = sys.argv[1:] or list(makers)
    makers["adamw_8bit"] = adamw_8bit.make
    unknown = [name for name in asked if name not in makers]
    if unknown:
        sys.exit(f"error: no maker named {unknown[0]}\nhint: choose among {', '.join(makers)}")
    for name in asked:
        makers[name](GOLDEN)
    total = 0
    for path in sorted(GOLDEN.rglob("*")):
        if path.is_file():
            total += path.stat().st_size
            print(f"{path.stat().st_size:9}  {path.relative_to(GOLDEN)}")
    print(f"{total:9}  in all")


if __name__ == "__main__":
    main()
