"""Train LoRA and the token's embedding row on a mixture with a plain transformers.Trainer.

delia prepare smollm2-135m-instruct my-model
python transformers_trainer.py my-model trained --cache my-cache
"""

import argparse

from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

import delia_data  # noqa: F401  # load_dataset knows delia_mix from here on

parser = argparse.ArgumentParser()
parser.add_argument("model", help="folder of delia prepare")
parser.add_argument("out")
parser.add_argument("--cache", help="pairs (default: bundled)")
parser.add_argument("--task", help="task (default: bundled)")
parser.add_argument("--ratio", type=float, default=4)
parser.add_argument("--token", default="<sep>")
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--steps", type=int, default=-1, help="number of steps (default: one epoch)")
given = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(given.model)
model = AutoModelForCausalLM.from_pretrained(given.model, dtype="float32")


def encode(row):
    """Return the ids and labels of a row; all labels before the answer are -100."""
    turns = row["messages"]
    prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=True)
    whole = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    begin = len(prompt["input_ids"])
    return {"input_ids": whole, "labels": [-100] * begin + whole[begin:]}


mixture = load_dataset("delia_mix", ratio=given.ratio, task=given.task, cache=given.cache)
rows = mixture["train"].map(encode, remove_columns=mixture["train"].column_names)

lora = LoraConfig(
    r=16,
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
    trainable_token_indices={"embed_tokens": [tokenizer.convert_tokens_to_ids(given.token)]},
    task_type="CAUSAL_LM",
)
trainer = Trainer(
    model=get_peft_model(model, lora),
    args=TrainingArguments(
        output_dir=given.out,
        per_device_train_batch_size=given.batch_size,
        learning_rate=1e-3,
        num_train_epochs=1,
        max_steps=given.steps,
        train_sampling_strategy="sequential",  # keep the mixture's order
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=rows,
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
trainer.train()
trainer.save_model()
tokenizer.save_pretrained(given.out)
for entry in trainer.state.log_history:
    if "loss" in entry:
        print(f"step {entry['step']}: loss {entry['loss']:.4f}")
