"""Memory that the shipped recipes need, for `doctor`, which must not import what the memory plan needs.

Computed by ``training.plan``; ``tests/test_plan.py`` compares.
"""

# A CPU's memory for training `ml-100k-cpu`, in the order in which to try: what to set in its recipe, and bytes in fp32.
CPU_TRAINING = (
    ("", 1.10e9),
    ("finetune.gradient_accumulation_steps: 4", 0.90e9),
    ("finetune.checkpointing: true and distill.checkpointing: true", 0.84e9),
)
# Resident memory of a process that serves its bundle.
SERVING = 0.11e9
# A card's memory for the smallest setting of each base, and for `ml-100k-gpu` as it is.
CARD_LEAST = {"smollm2-135m": 0.72e9, "qwen2.5-0.5b": 1.14e9, "qwen2.5-1.5b": 2.03e9, "qwen2.5-7b": 7.24e9}
CARD_RECIPE = 4.96e9
