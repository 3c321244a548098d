"""Training: one run after another (`reference`), or many at once (`batched`) with the same results."""
