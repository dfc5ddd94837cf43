"""Recipes: complete training runs, each stated in one readable module and resumable.

`recipes.nano` is the demo model from data set to evaluation. `vision_tokenizer` trains on your own
images; `lora_style`, `instruct` and `dpo` are examples of fine-tuning.
"""
