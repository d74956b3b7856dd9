"""The text side of CLIP: features of prompts, the text tower as part of a model, and the classifier made of it."""
