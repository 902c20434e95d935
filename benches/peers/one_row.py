"""Plumb beside llama.cpp on one row, both in f32: the two alternate, and the ratio of their times is printed.

    python benches/peers/one_row.py MODEL [--engine llama-cpp-python] [--repeats 7] [--threads 2] [--prompt 64] [--new 64]

MODEL is a directory with a Hugging Face model of the llama family, one file of weights. Needs gguf, torch and safetensors, cargo, and of llama.cpp
either `llama-cpp-python`, which pip compiles for this processor, or `xllamacpp`, which comes compiled for any.
The model is written as an f32 GGUF into a temporary folder. A run is a prompt and its new tokens, sampled at temperature 1 without filters;
the end-of-sequence token does not end it. Loading is not timed.
"""

import argparse
import json
import os
import tempfile
import time

import gguf
import torch
from peers import Plumb, ratio, row
from safetensors import safe_open

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def name_of(name):
    if name in TOP:
        return TOP[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"


def interleaved(weight, heads):
    """Rows of queries and keys as GGUF has them: the two halves that are rotated together side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(model, path):
    config = json.load(open(os.path.join(model, "config.json")))
    vocabulary = json.load(open(os.path.join(model, "tokenizer.json")))["model"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    tokens += [f"<unused {index}>" for index in range(len(tokens), config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["merges"]])
    with safe_open(os.path.join(model, "model.safetensors"), "pt") as tensors:
        for name in tensors.keys():
            weight = tensors.get_tensor(name).to(torch.float32).numpy()
            if "q_proj" in name or "k_proj" in name:
                weight = interleaved(weight, heads if "q_proj" in name else kv_heads)
            writer.add_tensor(name_of(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Compiled:
    """llama.cpp as pip compiled it here."""

    def __init__(self, path, threads, context):
        import llama_cpp

        f32 = llama_cpp.GGML_TYPE_F32
        self.model = llama_cpp.Llama(
            path, n_ctx=context, n_threads=threads, n_threads_batch=threads, type_k=f32, type_v=f32, verbose=False,
        )

    def run(self, prompt, new):
        # Nothing of the prompt is left of the run before.
        self.model.reset()
        started = time.perf_counter()
        drawn = self.model.generate(prompt, temp=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
        for _ in range(new):
            next(drawn)
        return time.perf_counter() - started


class Wheel:
    """llama.cpp as the wheel of xllamacpp has it."""

    def __init__(self, path, threads, context):
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = path
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        parameters.n_ctx = context
        parameters.n_parallel = 1
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(parameters)

    def run(self, prompt, new):
        asked = {
            "prompt": prompt, "n_predict": new, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True,
            "cache_prompt": False, "samplers": ["temperature"],
        }
        started = time.perf_counter()
        answer = self.server.handle_completions(asked)
        seconds = time.perf_counter() - started
        drawn = answer["usage"]["completion_tokens"] if "usage" in answer else answer["tokens_predicted"]
        assert drawn == new, answer
        return seconds


ENGINES = {"llama-cpp-python": Compiled, "xllamacpp": Wheel}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--engine", choices=ENGINES, default="llama-cpp-python")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "f32.gguf")
        write(arguments.model, path)
        peer = ENGINES[arguments.engine](path, arguments.threads, arguments.prompt + arguments.new + 8)
        plumb = Plumb(arguments.model, arguments.threads)
        work = ("generate", 1, arguments.prompt, arguments.new)
        prompt = torch.randint(0, 1000, (arguments.prompt,)).tolist()
        ours, theirs = [], []
        for repeat in range(arguments.repeats + 1):
            a, b = plumb.run(work), peer.run(prompt, arguments.new)
            if repeat > 0:
                ours.append(a)
                theirs.append(b)
    print("tokens per second: minimum / median / maximum; then the ratio of the times of each pair of runs")
    print(f"{row('plumb', ours, arguments.new)}   {row('llama.cpp', theirs, arguments.new)}   {ratio(ours, theirs)}")


if __name__ == "__main__":
    main()
