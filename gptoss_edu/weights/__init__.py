"""From bytes to `Params` and back: the Hub, files, names, and the two ways to keep a model.

Read hub and fetch, files, shards, layout and dialects, folders, reading, writing, checkpoint; then
mapped, drafts and convert (weights on disk as they lie in memory), orbax, published, answers and
verify.
"""
