"""Block fine-tuning: a checkpoint that reads prompts causally learns to read them in blocks."""
