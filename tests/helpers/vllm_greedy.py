"""Run checkpoints in vLLM, one after another in one process: python vllm_greedy.py < request > answer.

Request: {"folders": [...], "prompts": [[ids], ...], "tokens": N}; answer: under "answers" for each folder and
prompt the greedy ids and their log-probabilities; under "modules" where vLLM, which has loaded our plugin by its
entry point, finds each architecture once the plugin has registered twice more.
"""

import gc
import json
import os
import sys

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",  # compiling the log-probabilities takes longer than all of these answers
}


def main():
    request = json.load(sys.stdin)
    out, answer = os.dup(1), {}
    os.dup2(2, 1)  # what vLLM prints belongs to the log
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    options = SamplingParams(
        temperature=0, max_tokens=request["tokens"], ignore_eos=True, logprobs=0, detokenize=False
    )
    for folder in request["folders"]:
        gc.freeze()  # vLLM collects time and again, and need not look at all that was imported
        llm = LLM(
            folder,
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=True,
            max_model_len=256,
            distributed_executor_backend="uni",
        )
        outputs = llm.generate(
            [{"prompt_token_ids": ids} for ids in request["prompts"]], options, use_tqdm=False
        )
        answer[folder] = [
            {
                "ids": list(output.outputs[0].token_ids),
                "logprobs": [
                    step[token].logprob
                    for token, step in zip(
                        output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True
                    )
                ],
            }
            for output in outputs
        ]
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()
    from vllm import ModelRegistry

    from tokenprune import vllm_plugin

    vllm_plugin.register()
    vllm_plugin.register()
    modules = {name: getattr(model, "module_name", None) for name, model in ModelRegistry.models.items()}
    os.write(out, json.dumps({"answers": answer, "modules": modules}).encode())


if __name__ == "__main__":
    main()
