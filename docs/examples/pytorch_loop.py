"""Train all weights of a prepared model on a mixture in a plain PyTorch loop.

delia prepare smollm2-135m-instruct my-model
python pytorch_loop.py my-model trained --cache my-cache
"""

import argparse
from itertools import islice

import torch
from datasets import load_dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

import delia_data  # noqa: F401  # load_dataset knows delia_mix from here on

parser = argparse.ArgumentParser()
parser.add_argument("model", help="folder of delia prepare")
parser.add_argument("out")
parser.add_argument("--cache", help="pairs (default: bundled)")
parser.add_argument("--task", help="task (default: bundled)")
parser.add_argument("--ratio", type=float, default=4)
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--steps", type=int, help="number of steps (default: one epoch)")
given = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(given.model)
model = AutoModelForCausalLM.from_pretrained(given.model, dtype="float32").to(device).train()


def encode(row):
    """Return the ids and labels of a row; only the answer has labels."""
    turns = row["messages"]
    prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=True)
    ids = torch.tensor(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])
    labels = ids.clone()
    labels[: len(prompt["input_ids"])] = -100
    return ids, labels


def collate(rows):
    """Pad rows to one length; padding is masked and has no labels."""
    ids, labels = zip(*map(encode, rows), strict=True)
    return {
        "input_ids": pad_sequence(ids, True, tokenizer.pad_token_id).to(device),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], True, 0).to(device),
        "labels": pad_sequence(labels, True, -100).to(device),
    }


mixture = load_dataset("delia_mix", ratio=given.ratio, task=given.task, cache=given.cache)
# No shuffling: keep the mixture's order.
batches = torch.utils.data.DataLoader(mixture["train"], given.batch_size, collate_fn=collate)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for step, batch in enumerate(islice(batches, given.steps), start=1):
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")
model.save_pretrained(given.out)
tokenizer.save_pretrained(given.out)
