"""A freshly initialised checkpoint with the shape of GPT-2 small, to exercise a recipe where its weights are not.

    python scripts/make_gpt2_shaped.py .work/gpt2-shaped

124 M parameters: 12 layers x 768, 50,257 tokens; random weights (seed 0), the embedded model's tokenizer. What a
run on it shows is that every line works at full size, and how fast; its features mean nothing.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from unmix.lm.model import EMBEDDED

if __name__ == "__main__":
    out = Path(sys.argv[1])
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(out)
    AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(out)
    print(out)
