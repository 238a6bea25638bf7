"""The embedded benchmark: procedural word problems, their tokenizer, and the small base model trained on them."""
