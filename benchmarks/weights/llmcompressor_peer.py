"""SparseGPT and Wanda of llmcompressor on the windows that ours were calibrated on; runs in its environment.

    make bench-llmcompressor ARGS="--model FOLDER --windows build/weights/calibration.npy --out build/peers"

Writes a folder for each; `run.py --folders llmcompressor-wanda=build/peers/wanda,...` evaluates them as ours.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

KINDS = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", default="sparsegpt,wanda,sparsegpt-2:4,wanda-2:4")
    args = parser.parse_args()
    windows = torch.from_numpy(np.load(args.windows))
    for name in args.peers.split(","):
        kind, _, pattern = name.partition("-")
        options = {"mask_structure": pattern} if pattern else {}
        recipe = KINDS[kind](sparsity=0.5, targets=["Linear"], ignore=["re:.*lm_head"], **options)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        rows = DataLoader([{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in windows])
        began, spent = time.perf_counter(), time.process_time()
        oneshot(model=model, recipe=recipe, dataset=rows, num_calibration_samples=len(windows))
        folder = args.out / name.replace(":", "-")
        model.save_pretrained(folder, save_compressed=False)
        AutoTokenizer.from_pretrained(args.model).save_pretrained(folder)
        seconds = {"cpu_s": time.process_time() - spent, "wall_s": time.perf_counter() - began}
        print(json.dumps({"peer": name} | seconds), flush=True)


if __name__ == "__main__":
    main()
